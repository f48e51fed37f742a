'use strict';

const { copyAnswer } = require('../arguments.js');
const { VpnError } = require('../error.js');

/** How much of what `authenticate` has thrown is told: a message, and not a page. */
const MAX_FAILURE_LENGTH = 1000;

/**
 * The questions of a server in this process about clients, put to the program's `authenticate`. The engine
 * bounds their number and their time.
 */
class Questions {
  #answer;
  /** @type {Map<number, AbortController>} those that are not answered yet */
  #open = new Map();

  /** @param {(id: number, answer: string | null, failure: string | null) => void} answer */
  constructor(answer) {
    this.#answer = answer;
  }

  /**
   * @param {number} id
   * @param {object} request what is known of the client
   * @param {((request: object) => unknown) | undefined} authenticate
   */
  async ask(id, request, authenticate) {
    const controller = new AbortController();
    this.#open.set(id, controller);
    let [answer, failure] = [null, null];
    try {
      if (!authenticate) throw new VpnError('internal', 'there is no such function');
      const result = await authenticate({ ...request, signal: controller.signal });
      if (result !== null && result !== undefined) answer = JSON.stringify(copyAnswer(result));
    } catch (error) {
      failure = describe(error).slice(0, MAX_FAILURE_LENGTH);
    }
    if (this.#open.get(id) !== controller) return;
    this.#open.delete(id);
    this.#answer(id, answer, failure);
  }

  /** The question has no use any more. */
  abort(id) {
    const controller = this.#open.get(id);
    this.#open.delete(id);
    controller?.abort(new VpnError('aborted', 'The client has gone, or the time for the answer is over.'));
  }

  abortAll() {
    for (const id of this.#open.keys()) this.abort(id);
  }
}

/** Anything can be thrown, and some of it cannot even be made a string. */
function describe(error) {
  try {
    return String(error?.message ?? error);
  } catch {
    return 'something that has no message';
  }
}

module.exports = { Questions };
