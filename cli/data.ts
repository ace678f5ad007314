/** Where a coordinator keeps what must outlive it. */
import { homedir } from 'node:os'
import { join } from 'node:path'

/** CHORALE_DATA, else `chorale` in the platform's folder for data of this user. */
export function dataFolder(
  env: NodeJS.ProcessEnv = process.env,
  platform: string = process.platform,
): string {
  if (env.CHORALE_DATA) return env.CHORALE_DATA
  if (env.XDG_DATA_HOME) return join(env.XDG_DATA_HOME, 'chorale')
  if (platform === 'darwin') return join(homedir(), 'Library', 'Application Support', 'chorale')
  if (platform === 'win32')
    return join(env.LOCALAPPDATA ?? join(homedir(), 'AppData', 'Local'), 'chorale', 'Data')
  return join(homedir(), '.local', 'share', 'chorale')
}
