// A PLC directory in memory. A process of its own, so that it outlives the restart of a PDS.
import { createRequire } from 'node:module'
import { freePort, onLoopback, onStop, readOptions, ready } from './life.mjs'

process.env.LOG_ENABLED ??= 'false'
await readOptions()
const { PlcServer, Database } = createRequire(import.meta.url)('@did-plc/server')
const port = await freePort()
const plc = PlcServer.create({ db: Database.mock(), port })
onLoopback(plc.app)
await plc.start()
onStop(() => plc.destroy())
ready({ plc: `http://127.0.0.1:${port}` })
