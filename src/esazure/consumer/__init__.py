"""The receiving end, whatever the broker: each handler gets each event it wants, in version order, stream by stream.

`consumer.py` is what you make, `lane.py` handles messages, `positions.py` remembers how far each handler has come,
`decoding.py` turns messages and stored commits into events. Read `consumer.py` next.
"""

from __future__ import annotations

from esazure.consumer.consumer import Consumer
from esazure.consumer.lane import Lane
from esazure.consumer.positions import ParkedStream
from esazure.consumer.roster import ConsumerMetrics

__all__ = ["Consumer", "ConsumerMetrics", "Lane", "ParkedStream"]
