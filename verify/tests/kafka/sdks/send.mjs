// Sends to collect with the SDKs of Segment and RudderStack: node send.mjs URL WRITE_KEY. Prints as JSON what failed.
import { createRequire } from 'node:module'

// The packages are outside of the clone, where NODE_PATH says.
const require = createRequire(import.meta.url)
const { Analytics } = require('@segment/analytics-node')
const RudderAnalytics = require('@rudderstack/rudder-sdk-node')
const [url, writeKey] = process.argv.slice(2)
const failed = []

// Resolves when the SDK has an answer for each call.
const calls = (sdk, account) => {
  const answers = []
  const call = (name, message) => answers.push(new Promise(resolve => sdk[name](message, resolve)))
  call('group', { userId: 'u1', groupId: account, traits: { plan: 'pro' } })
  call('identify', { userId: 'u1', traits: { role: 'champion' }, context: { groupId: account } })
  for (let n = 0; n < 250; n++) {
    const [userId, event] = [`u${n % 3}`, `feature ${n % 5}`]
    call('track', { userId, event, properties: { count: 2 }, context: { groupId: account } })
  }
  call('page', { userId: 'u1', name: 'home' })
  return Promise.all(answers)
}

const segment = new Analytics({ writeKey, host: url })
segment.on('error', error => failed.push(String(error.reason ?? error)))
const sent = calls(segment, 'segment-node')
await segment.closeAndFlush()
await sent

const rudder = new RudderAnalytics(writeKey, { dataPlaneUrl: url, gzip: true, flushAt: 50 })
const answers = await calls(rudder, 'rudder-node')
failed.push(...answers.filter(error => error instanceof Error).map(String))
console.log(JSON.stringify({ failed }))
process.exit(0)
