// What both servers share: options from stdin, loopback-only listening, and an end that cannot be missed.
import http from 'node:http'
import { createInterface } from 'node:readline'

const PARENT = process.ppid
const PARENT_POLL_MS = 500
const STOP_LIMIT_MS = 3_000

let stopping = false
let cleanUp = async () => {}

function stop({ orphaned }) {
  if (stopping) return
  stopping = true
  // unref: a clean-up that finishes early is not kept waiting.
  setTimeout(() => process.exit(), STOP_LIMIT_MS).unref()
  Promise.resolve(cleanUp({ orphaned })).catch(() => {}).then(() => process.exit())
}

// `orphaned`: nobody is left to clean up behind this process.
export function onStop(fn) {
  cleanUp = fn
}

// The first line of stdin is the options object. The pipe then stays open for as long as the
// parent lives: the kernel closes it even when the parent is killed outright. A forked sibling
// may still hold the other end, so the parent's pid is watched too.
export function readOptions() {
  process.on('SIGTERM', () => stop({ orphaned: false }))
  process.on('SIGINT', () => {})   // Ctrl-C reaches the whole group; the parent decides.
  setInterval(() => process.ppid === PARENT || stop({ orphaned: true }), PARENT_POLL_MS).unref()
  return new Promise((resolve, reject) => {
    const lines = createInterface({ input: process.stdin })
    lines.once('line', (line) => resolve(JSON.parse(line)))
    lines.once('close', () => {
      reject(new Error('stdin closed before the options'))
      stop({ orphaned: true })
    })
  })
}

// Both packages listen on every interface when they are given a port alone.
export function onLoopback(app, handler = app) {
  app.listen = (port) => http.createServer(handler).listen(port, '127.0.0.1')
}

export function freePort() {
  return new Promise((resolve, reject) => {
    const probe = http.createServer()
    probe.once('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address()
      probe.close(() => resolve(port))
    })
  })
}

export function ready(facts) {
  process.stdout.write(JSON.stringify({ pid: process.pid, node: process.version, ...facts }) + '\n')
}
