/** The daemon as a process, and raw controllers of it: lines over a socket, without the library. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { eventually } from './traffic.mjs';

export const DAEMON = fileURLToPath(
  new URL('../../../npm/linux-x64-gnu/bin/smartvpn_daemon', import.meta.url),
);

/** For `skip`: why the daemon cannot be tested here, or `false`. */
export const notBuilt = !existsSync(DAEMON) && 'The daemon is not built: `npm run build`.';

/** Whatever is waited for comes far sooner. */
const PATIENCE_MS = 20_000;

/** A folder that only its owner can write to, for sockets; gone when the test is. */
export function folder(test) {
  const path = mkdtempSync(join(tmpdir(), 'smartvpn-'));
  test.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export class Daemon {
  /** @type {string} what it has printed to stdout */
  stdout = '';
  /** @type {string} what it has printed to stderr */
  stderr = '';
  /** @type {import('node:child_process').ChildProcess} */
  child;
  /** @type {Promise<[number | null, string | null]>} its exit code and signal */
  ended;

  /**
   * Starts it; on a host of a lab if one is given. It is killed at the end of the test.
   *
   * @param {import('node:test').TestContext} test
   * @param {string[]} args
   * @param {{ host?: import('../../../scripts/lab.mjs').Host, wrap?: string[], stdio?: any[], env?: object }} [options]
   *   `wrap` goes before the command
   */
  constructor(test, args, { host, wrap = [], stdio = ['ignore', 'pipe', 'pipe'], env } = {}) {
    const argv = [...wrap, DAEMON, ...args];
    const options = { stdio, env: { ...process.env, ...env } };
    this.child = host ? host.spawn(argv, options) : spawn(argv[0], argv.slice(1), options);
    for (const name of ['stdout', 'stderr']) {
      this.child[name]?.setEncoding('utf8').on('data', (text) => (this[name] += text));
    }
    this.ended = once(this.child, 'close');
    test.after(() => this.child.kill('SIGKILL'));
  }

  /** Starts one that listens at `socket`. */
  static async listening(test, socket, args, options) {
    const daemon = new Daemon(test, ['--management-socket', socket, ...args], options);
    await daemon.listens(socket);
    return daemon;
  }

  /** Resolves when a controller gets in. */
  async listens(socket) {
    await eventually(async () => {
      assert.equal(this.child.exitCode, null, this.stderr);
      const controller = await Controller.connect(socket);
      await controller.close();
    }, PATIENCE_MS);
  }

  /** All that it has printed. */
  get output() {
    return this.stdout + this.stderr;
  }

  /** Resolves when it hears SIGTERM; until then that ends it at once. */
  async hears() {
    const file = `/proc/${this.child.pid}/status`;
    await eventually(() => {
      const caught = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(file, 'utf8'))[1];
      assert.ok(BigInt(`0x${caught}`) & (1n << 14n));
    }, PATIENCE_MS);
  }

  /** Sends a signal and resolves with exit code and signal. */
  end(signal = 'SIGTERM') {
    this.child.kill(signal);
    return this.ended;
  }
}

/** Lines over a socket, or over a child's standard streams. */
export class Controller {
  /** @type {object[]} every message so far */
  messages = [];
  /** @type {Promise<void>} the daemon has closed it, or it is broken */
  closed;

  #output;
  #lastId = 0;
  #waiting = new Set();
  #isClosed = false;

  /** Connects, and reads the first line. */
  static async connect(path) {
    const socket = createConnection(path);
    await once(socket, 'connect');
    const controller = new Controller(socket, socket);
    await controller.message(({ event }) => event === 'ready');
    return controller;
  }

  constructor(input, output) {
    this.#output = output;
    output.on('error', () => {}); // `closed` tells
    input.on('error', () => {});
    createInterface({ input }).on('line', (line) => {
      this.#receive(line);
      this.#look();
    });
    this.closed = new Promise((resolve) => input.once('close', resolve)).then(() => {
      this.#isClosed = true;
      this.#look();
    });
  }

  /** Sends text or bytes as they are. */
  send(bytes) {
    this.#output.write(bytes);
  }

  /** Sends a request and resolves with its whole answer. */
  call(method, params, id = `call-${++this.#lastId}`) {
    this.send(`${JSON.stringify({ id, method, params })}\n`);
    return this.message((message) => message.id === id);
  }

  /** Sends a request, which must succeed, and resolves with its result. */
  async result(method, params) {
    const answer = await this.call(method, params);
    assert.equal(answer.success, true, JSON.stringify(answer));
    return answer.result;
  }

  /** The data of the first event of that name that meets the condition. */
  async event(name, meets = () => true) {
    return (await this.message(({ event, data }) => event === name && meets(data))).data;
  }

  /** The first message that meets the condition, one that came already included. */
  message(meets, timeoutMs = PATIENCE_MS) {
    return new Promise((resolve, reject) => {
      const fail = (why) =>
        reject(new Error(`${why}; came: ${JSON.stringify(this.messages.slice(-5))} for ${meets}`));
      const timer = setTimeout(() => fail(`no such message within ${timeoutMs} ms`), timeoutMs);
      const look = () => {
        const found = this.messages.find(meets);
        if (!found && !this.#isClosed) return;
        clearTimeout(timer);
        this.#waiting.delete(look);
        if (found) resolve(found);
        else fail('the connection is closed');
      };
      this.#waiting.add(look);
      look();
    });
  }

  /** Sends no more; the daemon then closes. */
  async close() {
    this.#output.end();
    await this.closed;
  }

  /** Goes without a word. */
  abandon() {
    this.#output.destroy();
  }

  /** Stops reading. */
  pause() {
    this.#output.pause();
  }

  #receive(line) {
    try {
      this.messages.push(JSON.parse(line));
    } catch (error) {
      // Cut short by a close on this side; no message meets a condition then.
      this.messages.push({ line, error });
    }
  }

  #look() {
    for (const look of this.#waiting) look();
  }
}
