/** Before each test file: fast-check draws from the run's seed too. */
import fc from 'fast-check'
import { inject } from 'vitest'

fc.configureGlobal({ seed: inject('seed') })
