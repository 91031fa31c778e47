// The official JavaScript client against a Service Bus: prints what it met as one line of JSON.
// Called by test_js_client.py with the scenario's name; the module and the connection string come from the environment.
import { createRequire } from "node:module";

const require = createRequire(process.env.ESAZURE_JS + "/");
const { ServiceBusClient } = require("@azure/service-bus");
const client = new ServiceBusClient(process.env.CONNECTION_STRING, { retryOptions: { maxRetries: 0 } });
const wait = { maxWaitTimeInMs: 10000 };

async function receive(receiver, count) {
  const messages = [];
  while (messages.length < count) {
    const some = await receiver.receiveMessages(count - messages.length, wait);
    if (some.length === 0) break;
    messages.push(...some);
  }
  return messages;
}

const bodies = (messages) => messages.map((message) => message.body);

const scenarios = {
  async queue() {
    const sender = client.createSender("q");
    await sender.sendMessages({ body: "one", applicationProperties: { number: 5, text: "t", flag: true } });
    const batch = await sender.createMessageBatch();
    batch.tryAddMessage({ body: "two" });
    batch.tryAddMessage({ body: { three: 3 } });
    await sender.sendMessages(batch);
    const receiver = client.createReceiver("q");
    const peeked = await receiver.peekMessages(5);
    const messages = await receive(receiver, 3);
    const ids = new Set(messages.map((message) => message.messageId));
    const until = await receiver.renewMessageLock(messages[0]);
    for (const message of messages) await receiver.completeMessage(message);
    return {
      peeked: bodies(peeked),
      received: bodies(messages),
      properties: messages[0].applicationProperties,
      ids: ids.size,
      renewed: until > new Date(),
      counts: messages.map((message) => message.deliveryCount),
    };
  },

  async settlements() {
    const sender = client.createSender("q");
    await sender.sendMessages([{ body: "again" }, { body: "later" }, { body: "never" }]);
    const receiver = client.createReceiver("q");
    const [again, later, never] = await receive(receiver, 3);
    await receiver.abandonMessage(again, { why: "abandoned" });
    await receiver.deferMessage(later, { why: "deferred" });
    await receiver.deadLetterMessage(never, {
      deadLetterReason: "reason",
      deadLetterErrorDescription: "description",
      custom: "kept",
    });
    const [back] = await receive(receiver, 1);
    const [deferred] = await receiver.receiveDeferredMessages([later.sequenceNumber]);
    await receiver.completeMessage(back);
    await receiver.completeMessage(deferred);
    const dead = client.createReceiver("q", { subQueueType: "deadLetter" });
    const [letter] = await receive(dead, 1);
    await dead.completeMessage(letter);
    const shown = (message) => [message.body, message.applicationProperties.why, message.deliveryCount];
    return {
      abandoned: shown(back),
      deferred: shown(deferred),
      dead: [letter.body, letter.deadLetterReason, letter.deadLetterErrorDescription],
      custom: letter.applicationProperties.custom,
    };
  },

  async sessions() {
    const sender = client.createSender("sessions");
    await sender.sendMessages([
      { body: "a0", sessionId: "a" },
      { body: "b0", sessionId: "b" },
      { body: "a1", sessionId: "a" },
    ]);
    const first = await client.acceptNextSession("sessions", wait);
    const [unsettled] = await receive(first, 1);
    await first.setSessionState({ place: 7 });
    const renewed = (await first.renewSessionLock()) > new Date();
    const taken = await client.acceptSession("sessions", "a", wait).then(
      () => "accepted",
      (error) => error.code,
    );
    await first.close();
    const again = await client.acceptSession("sessions", "a", wait);
    const messages = await receive(again, 2);
    for (const message of messages) await again.completeMessage(message);
    const state = await again.getSessionState();
    await again.close();
    return {
      first: [first.sessionId, unsettled.body],
      renewed,
      taken,
      received: bodies(messages),
      counts: messages.map((message) => message.deliveryCount),
      state,
    };
  },

  async scheduled() {
    const sender = client.createSender("q");
    const later = new Date(Date.now() + 3600000);
    const [kept, cancelled] = await sender.scheduleMessages([{ body: "kept" }, { body: "cancelled" }], later);
    await sender.cancelScheduledMessages(cancelled);
    const receiver = client.createReceiver("q");
    const peeked = await receiver.peekMessages(5);
    return { peeked: bodies(peeked), states: peeked.map((message) => message.state), same: kept.equals(peeked[0].sequenceNumber) };
  },

  async subscription() {
    await client.createSender("t").sendMessages({ body: "x", subject: "wanted" });
    const receiver = client.createReceiver("t", "s", { receiveMode: "receiveAndDelete" });
    return { received: bodies(await receive(receiver, 1)) };
  },

  async processor() {
    await client.createSender("q").sendMessages([{ body: "1" }, { body: "2" }]);
    const seen = [];
    const receiver = client.createReceiver("q");
    await new Promise((resolve, reject) => {
      receiver.subscribe({
        processMessage: async (message) => {
          seen.push(message.body);
          if (seen.length === 2) setTimeout(resolve, 200); // completed when this returns
        },
        processError: async ({ error }) => reject(error),
      });
    });
    await receiver.close();
    return { seen };
  },

  async refused() {
    const code = (promise) => promise.then(() => "accepted", (error) => error.code);
    return {
      sender: await code(client.createSender("nowhere").sendMessages({ body: "x" })),
      receiver: await code(client.createReceiver("t", "nobody").receiveMessages(1, wait)),
      session: await code(client.createSender("sessions").sendMessages({ body: "no session" })),
      large: await code(client.createSender("q").sendMessages({ body: "x", applicationProperties: { big: "x".repeat(70000) } })),
    };
  },
};

try {
  console.log(JSON.stringify(await scenarios[process.argv[2]]()));
} finally {
  await client.close();
}
