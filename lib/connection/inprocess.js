'use strict';

const { VpnError, toVpnError } = require('../error.js');
const { loadNative } = require('../native.js');
const { WeakLink } = require('../weak-link.js');

/** The engine tells its peers within 2 s; what then is left to undo on the host is quick. */
const SHUTDOWN_TIMEOUT_MS = 4000;
const UNDO_TIMEOUT_MS = 2000;

/**
 * What a connection tells its owner.
 *
 * @typedef {object} ConnectionObserver
 * @property {(name: string, data: any) => void} onEvent
 * @property {(end: { code: number | null, signal: string | null, error?: VpnError }) => void} onEnd
 *   called exactly once, after which the host is as found
 */

/** A connection to an engine of its own in this process. JSON text crosses to the addon and back. */
class InProcessConnection {
  #engine;
  #observer;
  #calls = new Map();
  #lastId = 0;
  /** @type {'open' | 'ending' | 'ended'} */
  #phase = 'open';
  #ended = deferred();
  #overdue;
  #link = new WeakLink(this);

  /**
   * @param {'client' | 'server'} mode
   * @param {ConnectionObserver} observer
   * @throws {VpnError} when there is no addon for this platform, or it refuses
   */
  constructor(mode, observer) {
    this.#observer = observer;
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
      );
    } catch (error) {
      throw fromException(error, 'The engine could not be started');
    }
  }

  /**
   * @param {string} method
   * @param {Record<string, unknown>} [params]
   * @returns {Promise<any>}
   */
  request(method, params) {
    // The answer comes from the event loop; whoever reads the error wants to know who asked.
    const origin = {};
    Error.captureStackTrace(origin, this.request);
    return new Promise((resolve, reject) => {
      const settle = (error, result) => {
        if (!error) return resolve(result);
        error.stack = `${error}${origin.stack.slice(origin.stack.indexOf('\n'))}`;
        reject(error);
      };
      if (this.#phase === 'open') this.#send(method, params, settle);
      else settle(new VpnError('aborted', 'The engine has ended.'));
    });
  }

  /**
   * Ends the engine. Calls in flight reject `aborted` at once.
   *
   * @returns {Promise<void>} settled when the peers have been told and the host is as found
   */
  end() {
    if (this.#phase === 'open') this.#shutDown();
    return this.#ended.promise;
  }

  /**
   * Puts the host back as found, synchronously, because the process ends.
   *
   * @param {number} timeoutMs
   * @returns {boolean} whether it was done within that time
   */
  undo(timeoutMs) {
    return this.#engine.undo(timeoutMs);
  }

  #send(method, params, settle) {
    const id = ++this.#lastId;
    this.#calls.set(id, settle);
    try {
      this.#engine.request(id, method, JSON.stringify(params ?? null));
    } catch (error) {
      this.#calls.delete(id);
      settle(fromException(error, `The engine did not take the call ${method}`));
    }
  }

  #onAnswer(id, success, body) {
    const settle = this.#calls.get(id);
    if (!settle) return;
    this.#calls.delete(id);
    if (success) settle(null, body);
    else settle(toVpnError(body));
  }

  #onEvent(name, data) {
    if (this.#phase === 'ended') return;
    if (name === 'exit') this.#onFailure(toVpnError(data));
    else this.#observer.onEvent(name, data);
  }

  /** The engine ended by itself. */
  #onFailure(error) {
    this.#undoNow();
    this.#finish({ code: 1, signal: null, error });
  }

  #shutDown() {
    this.#phase = 'ending';
    this.#rejectCalls('aborted', 'The call was ended by stop() or close().');
    this.#overdue = setTimeout(() => {
      this.#onShutDown(new VpnError('internal', 'The engine did not end in time. Please report this.'));
    }, SHUTDOWN_TIMEOUT_MS);
    this.#send('shutdown', undefined, (error) => this.#onShutDown(error));
  }

  #onShutDown(error) {
    if (this.#phase === 'ended') return;
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
    const { error } = end;
    const asked = this.#phase === 'ending';
    this.#phase = 'ended';
    clearTimeout(this.#overdue);
    this.#engine.release();
    this.#link.cut();
    this.#rejectCalls(error?.code ?? 'aborted', error?.message ?? 'The engine has ended.', error);
    this.#observer.onEnd(end);
    if (asked && error) this.#ended.reject(error);
    else this.#ended.resolve();
  }

  #rejectCalls(code, message, cause) {
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const settle of calls) settle(new VpnError(code, message, { cause }));
  }
}

function deferred() {
  let resolve, reject;
  const promise = new Promise((...functions) => ([resolve, reject] = functions));
  return { promise, resolve, reject };
}

/** The addon's own exceptions have `code` and `message`; a code of Node-API's is none of ours. */
function fromException(error, what) {
  if (error instanceof VpnError) return error;
  const code = /^[a-z]+(-[a-z]+)*$/.test(error?.code) ? error.code : 'internal';
  const message = code === 'internal' ? `${what}. Please report this.` : error.message;
  return new VpnError(code, message, { path: error?.path, cause: error });
}

module.exports = { InProcessConnection };
