/** Writes the golden frames anew. A diff in them is a change of the protocol: raise its version. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { encodeFromCoordinator, encodeFromVolunteer } from '../../../protocol/index.ts'
import { fromCoordinator, fromVolunteer } from './messages.ts'

const save = (name: string, bytes: Uint8Array): void => writeFileSync(join(import.meta.dirname, name), bytes)
let sequence = 0
for (const [name, message] of Object.entries(fromVolunteer))
  save(`volunteer.${name}.bin`, encodeFromVolunteer(message, sequence++))
sequence = 0
for (const [name, message] of Object.entries(fromCoordinator))
  save(`coordinator.${name}.bin`, encodeFromCoordinator(message, sequence++))
