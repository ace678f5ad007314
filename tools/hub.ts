/** Model folders from the Hugging Face Hub, in the cache that the Python libraries use too. Node only. */
import {
  downloadFileToCacheDir,
  getHFHubCachePath,
  HubApiError,
  listFiles,
  modelInfo,
} from '@huggingface/hub'
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'

/** The hub could not give what was asked for. One line: what, and what to do. */
export class HubError extends Error {
  readonly code: 'unreachable' | 'not-found' | 'refused' | 'failed'

  constructor(code: HubError['code'], what: string, todo: string, cause?: unknown) {
    super(`${what}. ${todo}.`, { cause })
    this.name = 'HubError'
    this.code = code
  }
}

export interface HubId {
  /** `owner/name` */
  repo: string
  /** A branch, tag or commit; null is the default branch. */
  revision: string | null
}

/** `owner/name[@revision]`, or null if the text is nothing of the kind. */
export function parseHubId(text: string): HubId | null {
  const part = '[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?'
  const found = new RegExp(`^(${part}/${part})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{0,200}))?$`).exec(text)
  if (!found || found[2]?.includes('..')) return null
  return { repo: found[1]!, revision: found[2] ?? null }
}

export interface HubProgress {
  file: string
  loaded: number
  /** Bytes of all files together. */
  total: number
}

/** What openModelFolder reads. */
const wanted =
  /^(config|generation_config|tokenizer|tokenizer_config|modules|sentence_bert_config)\.json$|^chat_template\.jinja$|^1_Pooling\/config\.json$|^README\.md$/
const weights = /^model(-\d{5}-of-\d{5})?\.safetensors$|^model\.safetensors\.index\.json$/

/**
 * Downloads what a model folder needs and returns its path, `…/snapshots/<commit>`. HF_HOME, HF_HUB_CACHE, HF_TOKEN (or the
 * token file `hf auth login` writes), HF_ENDPOINT and HF_HUB_OFFLINE are obeyed. With no way to the hub a revision that is in
 * the cache is used. Throws HubError.
 */
export async function hubFolder(
  { repo, revision }: HubId,
  onProgress?: (p: HubProgress) => void,
): Promise<string> {
  const name = revision ? `${repo}@${revision}` : repo
  const endpoint = (process.env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '')
  const storage = join(getHFHubCachePath(), `models--${repo.replace('/', '--')}`)
  const cached = await cachedSnapshot(storage, revision ?? 'main')
  if (isOn(process.env.HF_HUB_OFFLINE)) {
    if (cached) return cached
    throw new HubError(
      'unreachable',
      `${name} is not in the cache and HF_HUB_OFFLINE is set`,
      'Unset it, or name a local folder',
    )
  }
  // A commit never changes: what is there whole needs no question.
  if (cached && /^[0-9a-f]{40}$/.test(revision ?? '')) return cached
  const access = {
    hubUrl: endpoint,
    accessToken: await token(),
    repo: { type: 'model' as const, name: repo },
  }
  try {
    const { sha } = await modelInfo({
      ...access,
      name: repo,
      revision: revision ?? 'main',
      additionalFields: ['sha'],
    })
    const files: Array<{ path: string; size: number; etag: string }> = []
    for await (const { type, path, size, oid, lfs, xetHash } of listFiles({
      ...access,
      recursive: true,
      revision: sha,
    }))
      if (type === 'file' && (wanted.test(path) || weights.test(path)))
        files.push({ path, size, etag: lfs?.oid ?? xetHash ?? oid ?? '' })
    if (!files.some((f) => f.path === 'config.json') || !files.some((f) => weights.test(f.path)))
      throw new HubError(
        'not-found',
        `${name} has no config.json with model.safetensors`,
        'Choose a repository in the transformers layout',
      )
    const total = files.reduce((sum, f) => sum + f.size, 0)
    let loaded = 0
    for (const { path, size, etag } of files) {
      const before = loaded
      const incomplete = join(storage, 'blobs', `${etag}.incomplete`)
      const timer = setInterval(() => {
        stat(incomplete).then(
          ({ size: some }) => onProgress?.({ file: path, loaded: before + some, total }),
          () => {},
        )
      }, 500)
      try {
        await quietly(() => downloadFileToCacheDir({ ...access, path, revision: sha }))
      } finally {
        clearInterval(timer)
      }
      loaded += size
      onProgress?.({ file: path, loaded, total })
    }
    if (sha !== revision) {
      const ref = join(storage, 'refs', revision ?? 'main')
      await mkdir(dirname(ref), { recursive: true })
      await writeFile(ref, sha)
    }
    return join(storage, 'snapshots', sha)
  } catch (error) {
    if (error instanceof HubError) throw error
    if (!(error instanceof HubApiError)) {
      if (cached) return cached
      throw new HubError('unreachable', `${name} is no folder here, and ${endpoint} could not be reached (${reason(error)})`,
        'Check the network, or name a local model folder', error) // prettier-ignore
    }
    if (error.statusCode === 404)
      throw new HubError(
        'not-found',
        `${endpoint} has no model ${name}`,
        'Check the name and the revision',
        error,
      )
    if (error.statusCode === 401 || error.statusCode === 403)
      throw new HubError(
        'refused',
        `${endpoint} refuses ${name} (${error.statusCode})`,
        'Check the name, or set HF_TOKEN to a token that may read it',
        error,
      )
    throw new HubError(
      'failed',
      `${endpoint} answered ${error.statusCode} for ${name}`,
      'Try again later',
      error,
    )
  }
}

/** The snapshot of a revision if it was downloaded to the end. */
async function cachedSnapshot(storage: string, revision: string): Promise<string | null> {
  const commit = /^[0-9a-f]{40}$/.test(revision)
    ? revision
    : (await readFile(join(storage, 'refs', revision), 'utf8').catch(() => '')).trim()
  if (!/^[0-9a-f]{40}$/.test(commit)) return null
  const folder = join(storage, 'snapshots', commit)
  const has = (file: string): Promise<boolean> => stat(join(folder, file)).then(() => true, () => false) // prettier-ignore
  if (!(await has('config.json'))) return null
  if (await has('model.safetensors')) return folder
  const index = await readFile(join(folder, 'model.safetensors.index.json'), 'utf8').catch(() => null)
  if (index === null) return null
  try {
    const { weight_map: map } = JSON.parse(index) as { weight_map: Record<string, string> }
    for (const shard of new Set(Object.values(map))) if (!(await has(shard))) return null
    return folder
  } catch {
    return null
  }
}

async function token(): Promise<string | undefined> {
  const given = process.env.HF_TOKEN?.trim()
  if (given && !given.startsWith('hf_'))
    throw new HubError(
      'refused',
      'HF_TOKEN is no token of the Hub: those begin with hf_',
      'Correct it or unset it',
    )
  if (given) return given
  const home =
    process.env.HF_HOME ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface')
  const text = await readFile(process.env.HF_TOKEN_PATH ?? join(home, 'token'), 'utf8').catch(() => '')
  // The library takes no other.
  return text.trim().startsWith('hf_') ? text.trim() : undefined
}

/** The library announces each file with console.debug, which Node writes to stdout, where only results belong. */
async function quietly<T>(work: () => Promise<T>): Promise<T> {
  const debug = console.debug
  console.debug = () => {}
  try {
    return await work()
  } finally {
    console.debug = debug
  }
}

function reason(error: unknown): string {
  const cause = (error as Error).cause as NodeJS.ErrnoException | undefined
  return cause?.code ?? cause?.message ?? (error as Error).message
}

const isOn = (value: string | undefined): boolean =>
  value !== undefined && !['', '0', 'false', 'no', 'off'].includes(value.toLowerCase())
