"""The bank as an Azure Functions app. Read `function_app.py`."""
