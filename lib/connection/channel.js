'use strict';

const { VpnError } = require('../error.js');
const { LineReader } = require('./lines.js');

/** The version of the protocol on the line that this package speaks. */
const PROTOCOL = 1;

/**
 * The longest line taken from a daemon. Requests are limited to 64 KiB; a list of all clients that the
 * largest subnets hold is some MiB.
 */
const MAX_LINE_BYTES = 16 * 1024 * 1024;

/** How long a daemon may take to say that it is ready: more than a slow machine needs to start it. */
const READY_TIMEOUT_MS = 10_000;

/**
 * What a channel tells its owner. After `onFault` it tells nothing more.
 *
 * @typedef {object} ChannelObserver
 * @property {() => void} onReady a daemon of the right mode is there
 * @property {(id: number, success: boolean, body: any) => boolean} onAnswer `false` if it answers no call
 * @property {(name: string, data: any) => void} onEvent
 * @property {(error: VpnError, retriable: boolean) => void} onFault what is at the other end is of no use,
 *   for good unless `retriable`
 */

/** A conversation with a daemon: JSON lines, each way. */
class Channel {
  #output;
  #mode;
  #name;
  #observer;
  #reader = new LineReader(MAX_LINE_BYTES);
  #decoder = new TextDecoder('utf-8', { fatal: true });
  /** @type {'greeting' | 'open' | 'closed'} */
  #phase = 'greeting';
  #overdue;

  /**
   * @param {{ input: import('node:stream').Readable, output: import('node:stream').Writable }} streams
   *   their errors and their ends are the owner's
   * @param {'client' | 'server'} mode what the daemon must be
   * @param {string} name what messages call the daemon
   * @param {ChannelObserver} observer
   * @param {number} [readyTimeoutMs]
   */
  constructor({ input, output }, mode, name, observer, readyTimeoutMs = READY_TIMEOUT_MS) {
    this.#output = output;
    this.#mode = mode;
    this.#name = name;
    this.#observer = observer;
    this.#overdue = setTimeout(() => {
      this.#fault(
        `${name} did not say within ${readyTimeoutMs / 1000} s that it is ready. Is it busy?`,
        true,
      );
    }, readyTimeoutMs);
    this.#overdue.unref();
    input.on('data', (chunk) => this.#receive(chunk));
  }

  /** How many bytes of requests wait for the daemon to read them. */
  get waitingBytes() {
    return this.#output.writableLength;
  }

  /** @param {string} line one of `toRequestLine()` */
  send(line) {
    this.#output.write(line);
  }

  /** Nothing is told any more. */
  close() {
    this.#phase = 'closed';
    clearTimeout(this.#overdue);
  }

  #receive(chunk) {
    for (const { bytes, excess } of this.#reader.push(chunk)) {
      if (this.#phase === 'closed') return;
      if (excess > 0) this.#tooLong();
      else this.#take(bytes);
    }
    if (this.#phase !== 'closed' && this.#reader.excess > 0) this.#tooLong();
  }

  #take(bytes) {
    let message;
    try {
      message = JSON.parse(this.#decoder.decode(bytes));
    } catch {
      // What it says may hold a key, so it is not quoted.
      message = undefined;
    }
    if (typeof message !== 'object' || message === null) this.#misunderstood('a line that is no JSON object');
    else if (message.id === null && message.success === false) this.#refused(message.error);
    else if (this.#phase === 'greeting') this.#greet(message);
    else if (typeof message.event === 'string') this.#event(message.event, message.data ?? {});
    else this.#answer(message);
  }

  #event(name, data) {
    if (name === 'exit' && !isErrorBody(data)) this.#misunderstood('that it failed, but not of what');
    else this.#observer.onEvent(name, data);
  }

  #greet({ event, data }) {
    if (event !== 'ready' || typeof data?.mode !== 'string') {
      this.#misunderstood('a first line that does not say that it is ready');
    } else if (data.protocol !== PROTOCOL) {
      this.#fault(
        `${this.#name} is of version ${data.version} and speaks protocol ${data.protocol}; this package ` +
          `speaks ${PROTOCOL}. Use the daemon that comes with this version of the package.`,
      );
    } else if (data.mode !== this.#mode) {
      this.#fault(
        `${this.#name} is a VPN ${data.mode}, not a ${this.#mode}: use ` +
          `${data.mode === 'server' ? 'VpnServer' : 'VpnClient'}, or the daemon of the other mode.`,
        false,
        'wrong-mode',
      );
    } else {
      this.#phase = 'open';
      clearTimeout(this.#overdue);
      this.#observer.onReady();
    }
  }

  #answer({ id, success, result, error }) {
    if (success === true) {
      if (this.#observer.onAnswer(id, true, result ?? null)) return;
    } else if (success === false && isErrorBody(error)) {
      if (this.#observer.onAnswer(id, false, error)) return;
    } else {
      this.#misunderstood('a line that is neither an event nor an answer');
      return;
    }
    this.#misunderstood('an answer to a call that was not made');
  }

  /** It could make nothing of a line of ours, or takes no more controllers. */
  #refused(error) {
    const words = isErrorBody(error) ? error.message : 'without a reason';
    this.#fault(`${this.#name} refused this program: ${words}`, this.#phase === 'greeting');
  }

  #tooLong() {
    this.#misunderstood(`a line of more than ${MAX_LINE_BYTES} bytes`);
  }

  #misunderstood(what) {
    this.#fault(`${this.#name} said ${what}. Is it a smartvpn_daemon, and of this version?`);
  }

  #fault(message, retriable = false, code = 'control-unavailable') {
    this.close();
    this.#observer.onFault(new VpnError(code, message), retriable);
  }
}

function isErrorBody(error) {
  return typeof error?.code === 'string' && typeof error.message === 'string';
}

module.exports = { Channel };
