// One MQTT client of the tests, on mqtt.js: connects as the first line of standard input tells, does what each further line says, and
// prints what comes of it, a line of JSON each. Knows nothing of Hearthkey beyond its address.

import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import mqtt from 'mqtt'

function show(event) {
  process.stdout.write(JSON.stringify(event) + '\n')
}

// Properties of what is there.
function filled(values) {
  const there = Object.entries(values).filter(([, value]) => value !== undefined)
  return there.length > 0 ? Object.fromEntries(there) : undefined
}

function begin(told) {
  const five = told.version === 5
  const client = mqtt.connect({
    protocol: told.path ? 'wss' : 'mqtts',
    host: 'localhost',
    port: told.port,
    path: told.path,
    ca: readFileSync(told.ca),
    protocolVersion: told.version,
    clientId: told.client_id,
    username: told.client_id,
    password: told.password,
    clean: told.clean,
    keepalive: 30,
    reconnectPeriod: 0,
    properties: five ? { sessionExpiryInterval: told.session_expiry } : undefined,
    will: told.will
      ? { topic: told.will, payload: 'offline', qos: 1, retain: true, properties: filled({ willDelayInterval: told.will_delay }) }
      : undefined,
  })
  let ended = { ended: null, words: null }
  let admitted = false
  client.on('connect', (connack) => {
    admitted = true
    show({ connected: { session_present: connack.sessionPresent } })
  })
  client.on('message', (topic, payload, { qos, retain, properties = {} }) => {
    const { messageExpiryInterval: expiry, responseTopic: response_topic, correlationData } = properties
    const correlation = correlationData?.toString()
    show({ message: { topic, payload: payload.toString(), qos, retain, expiry, response_topic, correlation } })
  })
  client.on('disconnect', (packet) => {
    ended = { ended: packet.reasonCode, words: packet.properties?.reasonString ?? null }
  })
  client.on('error', (error) => {
    if (!admitted) show({ refused: error.code ?? null, words: error.message })
  })
  client.on('close', () => show(ended))
  return client
}

let client
createInterface({ input: process.stdin }).on('line', (line) => {
  const does = JSON.parse(line)
  if (!client) {
    client = begin(does)
  } else if ('publish' in does) {
    const { qos, retain, expiry, alias, response_topic, correlation } = does
    const properties = filled({
      messageExpiryInterval: expiry,
      topicAlias: alias,
      responseTopic: response_topic,
      correlationData: correlation === undefined ? undefined : Buffer.from(correlation),
    })
    client.publish(does.publish, does.payload, { qos, retain, properties }, (error, packet) => {
      show({ published: error ? error.code : (packet?.reasonCode ?? 0) })
    })
  } else if ('subscribe' in does) {
    client.subscribe(does.subscribe, { qos: does.qos }, (error, granted, packet) => {
      show({ subscribed: packet?.granted ?? granted?.map(({ qos }) => qos) ?? [error?.code ?? null], words: error?.message })
    })
  } else if ('leave' in does) {
    client.end(false, () => process.exit(0))
  }
})
