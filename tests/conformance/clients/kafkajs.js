// One case of kafkajs: `node kafkajs.js BOOTSTRAP CASE`.
const assert = require('node:assert')
const { randomUUID } = require('node:crypto')
const { Kafka, logLevel, CompressionTypes } = require('kafkajs')

const [bootstrap, name] = process.argv.slice(2)
const kafka = new Kafka({ brokers: [bootstrap], clientId: 'conformance', logLevel: logLevel.NOTHING })
const topic = `kafkajs-${name}-${randomUUID()}`

async function produce (values, config = {}, compression = CompressionTypes.None) {
  const producer = kafka.producer(config)
  await producer.connect()
  await producer.send({ topic, compression, messages: values.map(value => ({ value, partition: 0 })) })
  await producer.disconnect()
}

async function read (groupId, count) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 6000 })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const got = []
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`${got.length} of ${count} in time`)), 60000).unref()
    consumer.run({
      eachMessage: async ({ message }) => {
        got.push(message.value.toString())
        if (got.length === count) resolve()
      }
    }).catch(reject)
  })
  await consumer.disconnect()
  return got
}

const cases = {
  async produce () {
    const values = [...Array(500).keys()].map(String)
    await produce(values)
    await produce(values, { idempotent: true })
    await produce(values, {}, CompressionTypes.GZIP)
    assert.deepStrictEqual(await read(`g-${topic}`, 1500), [...values, ...values, ...values])
  },
  async group () {
    const values = [...Array(300).keys()].map(String)
    await produce(values)
    assert.deepStrictEqual(await read(`g-${topic}`, 300), values)
    await produce(['more'])
    assert.deepStrictEqual(await read(`g-${topic}`, 1), ['more'])
  },
  async admin () {
    const admin = kafka.admin()
    await admin.connect()
    await admin.createTopics({ topics: [{ topic, numPartitions: 3 }] })
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    assert.strictEqual(topics[0].partitions.length, 3)
    await produce(['x'])
    const [offset] = (await admin.fetchTopicOffsets(topic)).filter(each => each.partition === 0)
    assert.strictEqual(offset.offset, '1')
    await admin.deleteTopics({ topics: [topic] })
    assert.ok(!(await admin.listTopics()).includes(topic))
    await admin.disconnect()
  }
}

cases[name]().then(() => process.exit(0), error => { console.error(error.message); process.exit(1) })
