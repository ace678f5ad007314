/** A server in a process of its own that says what CPU time it took: the coordinator, or what it is measured against. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { WebSocketServer } from 'ws'
import { startCoordinator } from '../../coordinator/main.ts'

export type ServerKind = 'coordinator' | 'ws' | 'http'
export interface ServerOptions {
  kind: ServerKind
  models?: string[]
  dataFolder?: string
  trustedKeys?: string[]
}
export interface CpuReading {
  /** Milliseconds, all threads. */
  cpu: number
}

async function open({ kind, models = [], dataFolder, trustedKeys }: ServerOptions): Promise<string> {
  if (kind === 'coordinator') {
    const limits = { perAddressMax: 10_000 }
    const options = {
      models,
      dataFolder,
      trustedKeys,
      limits,
      port: 0,
      house: false,
      logLevel: 'error',
    } as const
    return (await startCoordinator(options)).url
  }
  const server = createServer((request, response) => {
    const parts: Buffer[] = []
    request.on('data', (part: Buffer) => parts.push(part))
    request.on('end', () => {
      const body = JSON.parse(Buffer.concat(parts).toString()) as object
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify(body))
    })
  })
  if (kind === 'ws') {
    const sockets = new WebSocketServer({ server, perMessageDeflate: false })
    sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(data)))
  }
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

process.once('message', async (options: ServerOptions) => {
  const url = await open(options)
  process.on('message', () => {
    const { user, system } = process.cpuUsage()
    process.send!({ cpu: (user + system) / 1000 } satisfies CpuReading)
  })
  process.send!({ url })
})
process.on('disconnect', () => process.exit())
