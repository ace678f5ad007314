#!/usr/bin/env node
// The command needs Node 24, which runs TypeScript as it is. An older Node hands over to the one this package installed.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import * as module from 'node:module'
import { fileURLToPath } from 'node:url'

const NEEDED = 24

if (Number(process.versions.node.split('.')[0]) >= NEEDED) {
  // Compiled code is kept: the second start takes half the time. Where the folder can't be written, nothing is.
  module.enableCompileCache?.(fileURLToPath(new URL('../node_modules/.cache/code', import.meta.url)))
  const { main } = await import('../cli/main.ts')
  await main(process.argv.slice(2))
} else {
  const folders = ['../node_modules/node/bin/', '../../node/bin/']
  const installed = folders
    .flatMap((folder) =>
      ['node', 'node.exe'].map((file) => fileURLToPath(new URL(folder + file, import.meta.url))),
    )
    .find((path) => existsSync(path))
  if (!installed) {
    process.stderr.write(
      `chorale: it needs Node ${NEEDED} or newer, and this is ${process.versions.node}. Install Node ${NEEDED} (nodejs.org), or run npm install in the checkout.\n`,
    )
    process.exit(4)
  }
  const child = spawn(installed, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], {
    stdio: 'inherit',
  })
  // A terminal sends its signals to both; one sent to this process alone is passed on.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) =>
    process.exit(code ?? (signal === 'SIGINT' ? 130 : signal === 'SIGTERM' ? 143 : 1)),
  )
}
