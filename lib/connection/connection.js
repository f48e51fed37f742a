'use strict';

const { VpnError } = require('../error.js');
const { Calls } = require('./calls.js');

const kAnswer = Symbol('kAnswer');
const kAsk = Symbol('kAsk');
const kEvent = Symbol('kEvent');
const kFail = Symbol('kFail');
const kFinish = Symbol('kFinish');
const kOpen = Symbol('kOpen');
const kOpened = Symbol('kOpened');
const kPhase = Symbol('kPhase');
const kRejectCalls = Symbol('kRejectCalls');
const kSend = Symbol('kSend');
const kShutDown = Symbol('kShutDown');

/**
 * How a connection ended.
 *
 * @typedef {{ code: number | null, signal: string | null, error?: VpnError }} End
 */

/**
 * What a connection tells its owner.
 *
 * @typedef {object} ConnectionObserver
 * @property {(name: string, data: any) => void} onEvent
 * @property {(end: End) => void} onEnd called exactly once, also if `open()` rejects: nothing is left then
 */

/**
 * The way to one engine, from its opening to its end. What the program calls does not depend on where
 * the engine runs.
 *
 * A transport brings the hooks `kOpen`, `kSend` and `kShutDown`, and reports by the others.
 */
class Connection {
  #observer;
  /** @type {'opening' | 'open' | 'ending' | 'failing' | 'ended'} */
  #phase = 'opening';
  #calls = new Calls();
  #opened = deferred();
  #ended = deferred();
  #failure;

  /** @param {ConnectionObserver} observer */
  constructor(observer) {
    this.#observer = observer;
    // A failure is told by what waits for it; it need not be both.
    this.#opened.promise.catch(() => {});
    this.#ended.promise.catch(() => {});
  }

  /** Whether the VPN ends with this connection, so that the host is this process's to put back. */
  get ownsVpn() {
    return true;
  }

  /**
   * @returns {Promise<void>} settled when calls can be made; rejects `aborted` if `end()` comes first
   */
  open() {
    this[kOpen]();
    return this.#opened.promise;
  }

  /**
   * @param {string} method
   * @param {Record<string, unknown>} [params]
   * @returns {Promise<any>}
   */
  request(method, params) {
    const send = (id) => {
      if (this.#phase !== 'open') throw this.#endedError();
      this[kSend](id, method, params);
    };
    return this.#calls.make(send, this.request);
  }

  /**
   * Ends the connection, and the engine if it is this connection's. Calls in flight reject `aborted` at
   * once.
   *
   * @returns {Promise<void>} settled when nothing is left; of an own engine: when the peers have been told
   *   and the host is as found
   */
  end() {
    if (this.#phase === 'opening' || this.#phase === 'open') {
      this.#phase = 'ending';
      this.#opened.reject(new VpnError('aborted', 'start() was ended by stop() or close().'));
      this[kRejectCalls]('aborted', 'The call was ended by stop() or close().');
      this[kShutDown]();
    }
    return this.#ended.promise;
  }

  /**
   * Puts the host back as found, synchronously, because the process ends: `undo(timeoutMs)`.
   *
   * @returns {boolean} whether it was done within that time
   */
  undo() {
    return true;
  }

  /** For the transports. */
  get [kPhase]() {
    return this.#phase;
  }

  /** Calls can be made. */
  [kOpened]() {
    if (this.#phase !== 'opening') return;
    this.#phase = 'open';
    this.#opened.resolve();
  }

  /** An answer came; `false` if there is no such call. */
  [kAnswer](id, success, body) {
    return this.#calls.settle(id, success, body) || this.#phase === 'ending';
  }

  [kEvent](name, data) {
    if (this.#phase !== 'ended') this.#observer.onEvent(name, data);
  }

  /**
   * Something broke, and the transport now clears up; {@link kFinish} is to follow.
   *
   * @param {VpnError} error
   */
  [kFail](error) {
    if (this.#phase !== 'opening' && this.#phase !== 'open') return;
    this.#phase = 'failing';
    this.#failure = error;
    this.#opened.reject(error);
    this[kRejectCalls](error.code, error.message, error);
  }

  /**
   * A call beside those of the program: while the engine is ended, too.
   *
   * @param {(error: VpnError | null, result?: any) => void} settle
   */
  [kAsk](method, settle) {
    this.#calls.add((id) => this[kSend](id, method, undefined), settle);
  }

  /** The calls in flight will not be answered. */
  [kRejectCalls](code, message, cause) {
    this.#calls.reject(() => new VpnError(code, message, { cause }));
  }

  /** Nothing is left. */
  [kFinish](end) {
    if (this.#phase === 'ended') return;
    const asked = this.#phase === 'ending';
    this.#failure ??= end.error;
    this.#phase = 'ended';
    const error = this.#failure;
    this.#opened.reject(this.#endedError());
    this.#calls.reject(() => this.#endedError());
    this.#observer.onEnd(error ? { ...end, error } : end);
    if (asked && error) this.#ended.reject(error);
    else this.#ended.resolve();
  }

  #endedError() {
    const { code = 'aborted', message = 'The engine has ended.' } = this.#failure ?? {};
    return new VpnError(code, message, { cause: this.#failure });
  }
}

function deferred() {
  let resolve, reject;
  const promise = new Promise((...functions) => ([resolve, reject] = functions));
  return { promise, resolve, reject };
}

module.exports = {
  Connection,
  kAnswer,
  kAsk,
  kEvent,
  kFail,
  kFinish,
  kOpen,
  kOpened,
  kPhase,
  kRejectCalls,
  kSend,
  kShutDown,
};
