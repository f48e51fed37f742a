'use strict';

const { callbacksAsTrue } = require('../config.js');
const { VpnError, fromException, toVpnError } = require('../error.js');
const { loadNative } = require('../native.js');
const { WeakLink } = require('../weak-link.js');
const {
  Connection,
  kAnswer,
  kAsk,
  kEvent,
  kFinish,
  kOpen,
  kOpened,
  kPhase,
  kSend,
  kShutDown,
} = require('./connection.js');
const { Questions } = require('./questions.js');

/** The engine tells its peers within 2 s; what then is left to undo on the host is quick. */
const SHUTDOWN_TIMEOUT_MS = 4000;
const UNDO_TIMEOUT_MS = 2000;

/** A connection to an engine of its own in this process. JSON text crosses to the addon and back. */
class InProcessConnection extends Connection {
  #engine;
  #overdue;
  #questions = new Questions((id, answer, failure) => this.#authenticated(id, answer, failure));
  /**
   * The `authenticate` of each call `start` that has not failed, by its id: the first one's server serves.
   *
   * @type {Map<number, ((request: object) => unknown) | undefined>}
   */
  #authenticators = new Map();
  /** By the id of each call `stopServer`: the `start`s before it. @type {Map<number, number[]>} */
  #stopping = new Map();
  #link = new WeakLink(this);

  /**
   * @param {'client' | 'server'} mode
   * @param {import('./connection.js').ConnectionObserver} observer
   * @throws {VpnError} when there is no addon for this platform, or it refuses
   */
  constructor(mode, observer) {
    super(observer);
    const { NativeEngine } = loadNative();
    // The addon keeps its callbacks for as long as its engine lives, which is ours: were they to keep
    // us, neither could ever be collected.
    const { reference } = this.#link;
    try {
      this.#engine = new NativeEngine(
        mode,
        (id, success, body) => WeakLink.follow(reference)?.#onAnswer(id, success, JSON.parse(body)),
        (name, data, lost) => {
          WeakLink.follow(reference)?.#onEvent(name, JSON.parse(data));
          if (lost > 0) WeakLink.follow(reference)?.#onEvent('lost', { count: lost });
        },
        (id, request) => WeakLink.follow(reference)?.#onQuestion(id, request),
      );
    } catch (error) {
      throw fromException(error, 'The engine could not be started');
    }
  }

  undo(timeoutMs) {
    return this.#engine.undo(timeoutMs);
  }

  [kOpen]() {
    this[kOpened]();
  }

  [kSend](id, method, params) {
    if (method === 'start') this.#authenticators.set(id, params?.authenticate);
    if (method === 'stopServer') this.#stopping.set(id, [...this.#authenticators.keys()]);
    try {
      this.#engine.request(id, method, JSON.stringify(params ?? null, callbacksAsTrue));
    } catch (error) {
      this.#authenticators.delete(id);
      this.#stopping.delete(id);
      throw fromException(error, `The engine did not take the call ${method}`);
    }
  }

  [kShutDown]() {
    this.#overdue = setTimeout(() => {
      this.#onShutDown(new VpnError('internal', 'The engine did not end in time. Please report this.'));
    }, SHUTDOWN_TIMEOUT_MS);
    this[kAsk]('shutdown', (error) => this.#onShutDown(error));
  }

  #onAnswer(id, success, body) {
    if (!success) this.#authenticators.delete(id);
    if (success) for (const start of this.#stopping.get(id) ?? []) this.#authenticators.delete(start);
    this.#stopping.delete(id);
    this[kAnswer](id, success, body);
  }

  /** The engine asks about a client, or takes its question back. */
  #onQuestion(id, request) {
    if (request === null) {
      this.#questions.abort(id);
      return;
    }
    const [authenticate] = this.#authenticators.values();
    this.#questions.ask(id, JSON.parse(request), authenticate);
  }

  #authenticated(id, answer, failure) {
    try {
      this.#engine.authenticated(id, answer, failure);
    } catch {
      // The engine has ended, and whoever waited for the answer with it.
    }
  }

  #onEvent(name, data) {
    if (this[kPhase] === 'ended') return;
    if (name === 'exit') this.#onFailure(toVpnError(data));
    else this[kEvent](name, data);
  }

  /** The engine ended by itself. */
  #onFailure(error) {
    this.#undoNow();
    this.#finish({ code: 1, signal: null, error });
  }

  #onShutDown(error) {
    if (this[kPhase] === 'ended') return;
    if (!error || this.#undoNow()) this.#finish({ code: 0, signal: null });
    else this.#finish({ code: 1, signal: null, error });
  }

  #undoNow() {
    try {
      return this.#engine.undo(UNDO_TIMEOUT_MS);
    } catch {
      return false;
    }
  }

  #finish(end) {
    clearTimeout(this.#overdue);
    this.#questions.abortAll();
    this.#engine.release();
    this.#link.cut();
    this[kFinish](end);
  }
}

module.exports = { InProcessConnection };
