// One case of @platformatic/kafka: `node platformatic.mjs BOOTSTRAP CASE`.
import assert from 'node:assert'
import { randomUUID } from 'node:crypto'

// Newer than some of the Nodes that it otherwise runs on.
Promise.withResolvers ??= () => {
  const parts = {}
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }))
  return parts
}

const { Admin, Consumer, MessagesStreamModes, Producer, stringDeserializers, stringSerializers } = await import('@platformatic/kafka')

const [bootstrap, name] = process.argv.slice(2)
const topic = `platformatic-${name}-${randomUUID()}`
const base = { clientId: 'conformance', bootstrapBrokers: [bootstrap] }

async function create (partitions) {
  const admin = new Admin(base)
  await admin.createTopics({ topics: [topic], partitions, replicas: 1 })
  return admin
}

async function produce (values, config = {}) {
  const producer = new Producer({ ...base, serializers: stringSerializers, ...config })
  await producer.send({ messages: values.map(value => ({ topic, key: 'k', value })) })
  await producer.close()
}

async function read (groupId, count) {
  const consumer = new Consumer({ ...base, groupId, deserializers: stringDeserializers })
  const stream = await consumer.consume({ topics: [topic], mode: MessagesStreamModes.COMMITTED, fallbackMode: 'earliest', autocommit: true, sessionTimeout: 10000, heartbeatInterval: 500 })
  const got = []
  for await (const message of stream) {
    got.push(message.value)
    if (got.length === count) break
  }
  await consumer.close(true)
  return got
}

const cases = {
  async produce () {
    const admin = await create(1)
    const values = [...Array(500).keys()].map(String)
    await produce(values)
    await produce(values, { idempotent: true })
    assert.deepStrictEqual(await read(`g-${topic}`, 1000), [...values, ...values])
    await admin.close()
  },
  async group () {
    const admin = await create(2)
    const values = [...Array(100).keys()].map(String)
    await produce(values)
    assert.deepStrictEqual(await read(`g-${topic}`, 100), values)
    const groups = await admin.listGroups()
    assert.ok(groups.has(`g-${topic}`))
    await admin.close()
  },
  async admin () {
    const admin = await create(3)
    const metadata = await admin.metadata({ topics: [topic] })
    assert.strictEqual(metadata.topics.get(topic).partitionsCount, 3)
    await admin.deleteTopics({ topics: [topic] })
    await admin.close()
  }
}

setTimeout(() => { console.error('not done in time'); process.exit(1) }, 90000).unref()
cases[name]().then(() => process.exit(0), error => { console.error(error.message); process.exit(1) })
