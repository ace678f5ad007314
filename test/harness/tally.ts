/** The run's last line: `N passed, N failed`. A file or a hook that fails outside any test counts as one failed. */
import { writeSync } from 'node:fs'
import type { Reporter, TestModule } from 'vitest/node'

export default class Tally implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[]): void {
    let passed = 0
    let failed = unhandled.length
    for (const module of modules) {
      let inTests = 0
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        if (state === 'passed') passed++
        if (state === 'failed') inTests++
      }
      failed += inTests > 0 || module.state() !== 'failed' ? inTests : 1
    }
    // At exit, so that nothing comes after it, and a failure that no test shows (the set-up's) is known.
    process.once('exit', () => {
      if (failed === 0 && process.exitCode) failed = 1
      writeSync(1, `${passed} passed, ${failed} failed\n`)
    })
  }
}
