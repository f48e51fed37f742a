'use strict';

/** Stand-ins for smartvpn_daemon, which answer as a test says and misbehave as none ever should. */

const { once } = require('node:events');
const { chmodSync, mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const net = require('node:net');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { createInterface } = require('node:readline');

/** The line by which a daemon greets. */
function ready(mode = 'client', members) {
  return { event: 'ready', data: { version: '0.1.0', protocol: 1, mode, ...members } };
}

/** A folder that goes with the test. */
function makeFolder(t) {
  const folder = mkdtempSync(join(tmpdir(), 'smartvpn-stand-in-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** What every executable of {@link makeDaemon} begins with. */
const PREAMBLE = `#!${process.execPath}
'use strict';
const { createInterface } = require('node:readline');
const { writeSync } = require('node:fs');
const mode = process.argv.at(-1);
const raw = (text) => writeSync(1, text);
const say = (message) => raw(JSON.stringify(message) + '\\n');
const ready = (members) =>
  say({ event: 'ready', data: { version: '0.1.0', protocol: 1, mode, ...members } });
const input = createInterface({ input: process.stdin });
/** Answers each request with what \`answer(request)\` returns; \`undefined\` is no answer. */
const serve = (answer) =>
  input.on('line', (line) => {
    const request = JSON.parse(line);
    const result = answer(request);
    if (result !== undefined) say({ id: request.id, success: true, result });
  });
`;

/**
 * An executable for \`daemonPath\` that runs \`source\`.
 *
 * @returns {string} its path
 */
function makeDaemon(t, source) {
  const file = join(makeFolder(t), 'stand-in-daemon');
  writeFileSync(file, PREAMBLE + source);
  chmodSync(file, 0o755);
  return file;
}

/** A daemon at a Unix socket, in this process. */
class SocketDaemon {
  /** @type {net.Socket[]} the connections it has, in the order they came */
  controllers = [];
  /** @type {{ id: number, method: string, params?: unknown }[]} */
  requests = [];
  /** What to answer: `answers[method](params)`; `undefined` is no answer, an `error` member a refusal. */
  answers = {};
  /** What to do with a connection; `null` is the usual. */
  onConnection = null;
  accepted = 0;

  #server;

  constructor(path, mode) {
    this.path = path;
    this.mode = mode;
  }

  async listen() {
    this.#server = net.createServer((socket) => this.#accept(socket));
    this.#server.listen(this.path);
    await once(this.#server, 'listening');
  }

  /** Ends all connections, and listens no more; the socket goes. */
  async close() {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.drop();
    await closed;
  }

  /** Ends all connections. */
  drop() {
    for (const socket of this.controllers.splice(0)) socket.destroy();
  }

  /** Says something to all. */
  say(message) {
    for (const socket of this.controllers) say(socket, message);
  }

  get methods() {
    return this.requests.map(({ method }) => method);
  }

  #accept(socket) {
    this.accepted++;
    this.controllers.push(socket);
    socket.on('error', () => {});
    if (this.onConnection) {
      this.onConnection(socket);
      return;
    }
    say(socket, ready(this.mode));
    createInterface({ input: socket })
      .on('line', (line) => this.#answer(socket, JSON.parse(line)))
      .on('error', () => {});
  }

  #answer(socket, request) {
    this.requests.push(request);
    const { [request.method]: answer = () => ({ state: 'disconnected' }) } = this.answers;
    const result = answer(request.params);
    if (result === undefined) return;
    if (result?.error) say(socket, { id: request.id, success: false, error: result.error });
    else say(socket, { id: request.id, success: true, result });
  }
}

function say(socket, message) {
  socket.write(`${JSON.stringify(message)}\n`);
}

/** A {@link SocketDaemon} that listens, and goes with the test. */
async function startSocketDaemon(t, { mode = 'client', answers = {}, path, onConnection = null } = {}) {
  const daemon = new SocketDaemon(path ?? join(makeFolder(t), 'control.sock'), mode);
  Object.assign(daemon, { answers, onConnection });
  await daemon.listen();
  t.after(() => daemon.close().catch(() => {}));
  return daemon;
}

module.exports = { makeDaemon, makeFolder, ready, say, startSocketDaemon };
