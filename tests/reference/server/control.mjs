// A record of the OAuth requests that reached the server, and faults to put on them.
// GET /log, DELETE /log, POST /faults, DELETE /faults, POST /release, POST /move. Never a token: only the start of its SHA-256.
import { createHash } from 'node:crypto'
import http from 'node:http'

const WATCHED = new Set(['/oauth/par', '/oauth/token', '/oauth/revoke'])
const BODY_LIMIT = 256 * 1024
const LOG_LIMIT = 50_000

const digest = (token) => (token ? createHash('sha256').update(token).digest('hex').slice(0, 16) : null)

function parse(text) {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

function fields(body, type) {
  const form = /json/.test(type ?? '') ? parse(body) ?? {} : Object.fromEntries(new URLSearchParams(body))
  const assertion = String(form.client_assertion ?? '').split('.')[0]
  return {
    grant_type: form.grant_type ?? null,
    client_id: form.client_id ?? null,
    kid: parse(Buffer.from(assertion, 'base64url').toString())?.kid ?? null,
    token: digest(form.refresh_token ?? form.token),
  }
}

// Resolves with the whole body while leaving it in the stream for the server to read.
function tapBody(req) {
  const chunks = []
  let length = 0
  return new Promise((resolve) => {
    const push = req.push
    const done = () => resolve(Buffer.concat(chunks).toString())
    req.once('close', done)
    req.push = (chunk, encoding) => {
      push.call(req, chunk, encoding)
      if (chunk === null) done()
      else if ((length += chunk.length) <= BODY_LIMIT) chunks.push(chunk)
      else done()
      return true   // No back pressure: nobody reads before the body is complete.
    }
  })
}

// Keeps the answer back until it is complete, then hands it to `finish`.
function holdAnswer(res, finish) {
  const { write, end } = res
  const parts = []
  const keep = (chunk, encoding) => {
    if (chunk && typeof chunk !== 'function')
      parts.push(Buffer.from(chunk, typeof encoding === 'string' ? encoding : undefined))
  }
  res.write = (chunk, encoding, callback) => {
    keep(chunk, encoding)
    const done = typeof encoding === 'function' ? encoding : callback
    if (done) process.nextTick(done)
    return true
  }
  res.end = (chunk, encoding, callback) => {
    keep(chunk, encoding)
    const done = [chunk, encoding, callback].find((value) => typeof value === 'function')
    res.write = write
    res.end = end
    const body = Buffer.concat(parts)
    finish(body, () => res.end(body, done))
    return res
  }
}

export function createControl(app, { move }) {
  let log = []
  let faults = []
  const held = []

  const take = (kind, entry) => {
    const fault = faults.find((f) => kind.includes(f.kind) && f.count > 0 && f.path === entry.path
      && (f.grant_type == null || f.grant_type === entry.grant_type))
    if (fault) {
      fault.count -= 1
      entry.fault = fault.kind
    }
    return fault
  }

  async function watched(req, res) {
    const entry = { at: Date.now(), ended: null, path: req.url.split('?')[0], status: null, error: null, fault: null }
    if (log.length < LOG_LIMIT) log.push(entry)
    const tapped = tapBody(req)
    res.once('close', () => {
      entry.ended ??= Date.now()
    })
    Object.assign(entry, fields(await tapped, req.headers['content-type']))
    const early = take(['error'], entry)
    if (early) {
      entry.status = early.status
      res.writeHead(early.status, { 'content-type': 'application/json', 'cache-control': 'no-store',
        ...(early.retry_after == null ? {} : { 'retry-after': String(early.retry_after) }) })
      return res.end(JSON.stringify({ error: 'server_error', error_description: 'Injected by the test' }))
    }
    holdAnswer(res, (body, send) => {
      entry.status = res.statusCode
      entry.error = res.statusCode < 400 ? null : parse(body.toString())?.error ?? null
      // A nonce challenge is no outcome: only an answer that did something is lost or late.
      const late = res.statusCode < 400 ? take(['drop', 'delay', 'hold'], entry) : undefined
      if (late?.kind === 'drop') return req.socket.destroy()
      if (late?.kind === 'delay') return setTimeout(send, late.ms)
      if (late?.kind === 'hold') return held.push(send)
      send()
    })
    app(req, res)
  }

  // A hold that was not used up goes too: an answer that comes a moment later would wait for nobody.
  const release = () => {
    faults = faults.filter((f) => f.kind !== 'hold')
    for (const send of held.splice(0)) send()
    return {}
  }

  const handler = (req, res) => {
    if (!WATCHED.has(req.url.split('?')[0]) || req.method !== 'POST') return app(req, res)
    watched(req, res).catch((error) => req.socket.destroy(error))
  }

  const server = http.createServer(async (req, res) => {
    const chunks = []
    for await (const chunk of req) chunks.push(chunk)
    const sent = Buffer.concat(chunks).toString()
    const answer = (body) => res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    switch (`${req.method} ${req.url}`) {
      case 'GET /log': return answer(log)
      case 'DELETE /log': return answer((log = []))
      case 'POST /faults': return answer(faults.push(JSON.parse(sent)))
      case 'DELETE /faults': return answer([release(), (faults = [])])
      case 'POST /release': return answer(release())
      case 'POST /move': return move(JSON.parse(sent)).then(answer, () => res.writeHead(500).end())
      default: return res.writeHead(404).end()
    }
  })

  return {
    handler,
    listen: () => new Promise((resolve, reject) => {
      server.once('error', reject)
      server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${server.address().port}`))
    }),
    close: () => {
      server.closeAllConnections()
      server.close()
    },
  }
}
