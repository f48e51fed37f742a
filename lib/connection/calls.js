'use strict';

const { VpnError, toVpnError } = require('../error.js');

/**
 * Calls that may wait for their answers, over each transport. An engine answers within a connect's
 * time-out at the latest, so more of them come from a program that has lost count; and it keeps what
 * a daemon that hangs can make this process hold within bounds.
 */
const MAX_CALLS = 1000;

/** The calls that wait for their answers. */
class Calls {
  #settlers = new Map();
  #lastId = 0;

  /**
   * A call whose answer comes by {@link settle}.
   *
   * @param {(id: number) => void} send sends the call off; what it throws, the call rejects with
   * @param {Function} caller where the stack trace of a failure begins
   * @returns {Promise<any>}
   */
  make(send, caller) {
    // The answer comes from the event loop; whoever reads the error wants to know who asked.
    const origin = {};
    Error.captureStackTrace(origin, caller);
    return new Promise((resolve, reject) => {
      const settle = (error, result) => {
        if (!error) return resolve(result);
        error.stack = `${error}${origin.stack.slice(origin.stack.indexOf('\n'))}`;
        reject(error);
      };
      if (this.#settlers.size >= MAX_CALLS) settle(tooMany());
      else this.add(send, settle);
    });
  }

  /**
   * As {@link make}, with a callback, and not counted: for what ends an engine.
   *
   * @param {(id: number) => void} send
   * @param {(error: VpnError | null, result?: any) => void} settle
   */
  add(send, settle) {
    const id = ++this.#lastId;
    this.#settlers.set(id, settle);
    try {
      send(id);
    } catch (error) {
      this.#settlers.delete(id);
      settle(error);
    }
  }

  /**
   * An answer came.
   *
   * @returns {boolean} whether there was such a call
   */
  settle(id, success, body) {
    const settle = this.#settlers.get(id);
    if (!settle) return false;
    this.#settlers.delete(id);
    if (success) settle(null, body);
    else settle(toVpnError(body));
    return true;
  }

  /**
   * No answer will come to these calls any more.
   *
   * @param {() => VpnError} makeError an error of its own for each of them
   */
  reject(makeError) {
    const settlers = [...this.#settlers.values()];
    this.#settlers.clear();
    for (const settle of settlers) settle(makeError());
  }
}

function tooMany() {
  return new VpnError(
    'invalid-argument',
    `${MAX_CALLS.toLocaleString('en')} calls wait for their answers; await some of them before the next.`,
  );
}

module.exports = { Calls, MAX_CALLS };
