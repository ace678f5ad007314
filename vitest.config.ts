import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/harness/setup.ts'],
    setupFiles: ['test/harness/each.ts'],
    // Child processes: Dawn chooses its driver through the environment, which a worker thread can't set.
    pool: 'forks',
    // A hang must end; nothing here says how fast anything is. A software GPU on a busy machine is slow.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    reporters: ['default', ['json', { outputFile: '.cache/test.json' }], './test/harness/tally.ts'],
  },
})
