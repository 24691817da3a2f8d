// One real @atproto/pds with its OAuth provider, on loopback only. Prints one JSON line when it is ready.
import dns from 'node:dns'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { createControl } from './control.mjs'
import { freePort, onLoopback, onStop, readOptions, ready } from './life.mjs'

process.env.LOG_ENABLED ??= 'false'
const options = await readOptions()
const port = options.port || await freePort()

// Names of confidential clients, which this server fetches, lead to loopback; nothing else changes.
if (options.map_hosts.length) {
  const names = new Set(options.map_hosts)
  const lookup = dns.lookup
  dns.lookup = (host, how, callback) => {
    if (typeof how === 'function') [how, callback] = [{}, how]
    if (!names.has(host)) return lookup.call(dns, host, how, callback)
    const found = { address: '127.0.0.1', family: 4 }
    process.nextTick(() => (how?.all ? callback(null, [found]) : callback(null, found.address, found.family)))
  }
}

const { PDS, envToCfg, envToSecrets } = await import('@atproto/pds')
const { Secp256k1Keypair } = await import('@atproto/crypto')

const inData = (name) => join(options.data, name)
mkdirSync(inData('blobs'), { recursive: true })
const secretsFile = inData('harness-secrets.json')
if (!existsSync(secretsFile)) {
  const recovery = await Secp256k1Keypair.create()
  writeFileSync(secretsFile, JSON.stringify({
    adminPassword: options.admin_password,
    jwtSecret: randomBytes(32).toString('hex'),
    plcRotationKeyK256PrivateKeyHex: randomBytes(32).toString('hex'),
    recoveryDidKey: recovery.did(),
  }), { mode: 0o600 })
}

const env = {
  ...JSON.parse(readFileSync(secretsFile, 'utf8')),
  devMode: true,                  // allows an http issuer
  port, hostname: 'localhost',    // => http://localhost:PORT, handles *.test
  serviceHandleDomains: ['.test'],
  didPlcUrl: options.plc,
  dataDirectory: options.data,
  blobstoreDiskLocation: inData('blobs'), blobstoreDiskTmpLocation: inData('tmp'),
  inviteRequired: false,
  disableSsrfProtection: true,    // client metadata comes from loopback
  rateLimitsEnabled: false,
  enableDidDocWithSession: true,
  dpopSecret: randomBytes(32).toString('hex'),   // a restart forgets every nonce, on purpose
  trustedOAuthClients: options.trusted_clients,
  crawlers: [],
}
const pds = await PDS.create(envToCfg(env), envToSecrets(env))
const control = createControl(pds.app, {
  move: async ({ did, pds: endpoint }) =>
    pds.ctx.plcClient.updatePds(did, pds.ctx.plcRotationKey, endpoint).then(() => ({})),
})
onLoopback(pds.app, control.handler)

const provider = pds.ctx.oauthProvider
if (options.no_client_cache) {
  for (const name of ['jwks', 'metadataGetter']) {
    const getter = provider.clientManager[name]
    provider.clientManager[name] = { get: (key, how) => getter.get(key, { ...how, noCache: true }) }
  }
}
if (options.dpop_interval_ms) {
  const { DpopNonce } = await import('@atproto/oauth-provider/verifier')
  provider.dpopManager.dpopNonce = new DpopNonce(randomBytes(32), options.dpop_interval_ms)
}
if (options.token_max_age_ms) provider.tokenManager.tokenMaxAge = options.token_max_age_ms

await pds.start()
const controlUrl = await control.listen()
onStop(async ({ orphaned }) => {
  control.close()
  try {
    await pds.destroy()
  } finally {
    if (orphaned && options.temporary) rmSync(options.data, { recursive: true, force: true })
  }
})

const pdsUrl = pds.ctx.cfg.service.publicUrl
const accountsFile = inData('harness-accounts.json')
let accounts = existsSync(accountsFile) ? JSON.parse(readFileSync(accountsFile, 'utf8')) : []
if (!accounts.length) {
  for (const handle of options.accounts) {
    const email = `${handle.split('.')[0]}@mail.test`
    const response = await fetch(`${pdsUrl}/xrpc/com.atproto.server.createAccount`, {
      method: 'POST', headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ handle, email, password: options.password }),
    })
    const body = await response.json()
    if (!response.ok) throw new Error(`createAccount ${handle}: ${response.status} ${body.message}`)
    accounts.push({ handle, did: body.did, password: options.password, email })
  }
  writeFileSync(accountsFile, JSON.stringify(accounts))
}
// Permission sets (include:NSID): the first account's repository answers for every NSID.
if (accounts[0]) pds.ctx.cfg.lexicon.didAuthority = accounts[0].did

ready({ pds: pdsUrl, issuer: provider.issuer, control: controlUrl, accounts })
