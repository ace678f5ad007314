/** What is fuzzed: a coordinator in a process of its own, without anybody who computes. `node --expose-gc target.ts FOLDER` */
import { startCoordinator } from '../../coordinator/main.ts'
import { packedFolder } from '../../tools/models.ts'

const models = await Promise.all(['tales-3m', 'intents-3m'].map((name) => packedFolder(name)))
const coordinator = await startCoordinator({
  models,
  port: 0,
  house: false,
  logLevel: 'warn',
  dataFolder: process.argv[2],
  limits: { perAddressMax: 10_000 },
})
process.send!({ url: coordinator.url })
process.on('message', (message) => {
  if (message === 'stop') return void coordinator.close(0).then(() => process.exit(0))
  // What is reachable, not what waits to be collected.
  globalThis.gc?.()
  process.send!({ heap: process.memoryUsage().heapUsed, rss: process.memoryUsage().rss })
})
