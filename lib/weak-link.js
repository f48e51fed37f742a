'use strict';

/**
 * The way back to `target` from something that `target` itself keeps alive, and that must not keep
 * `target` alive in turn. `target` holds the link; the other holds its `reference`.
 *
 * What a WeakRef knows lives until the next major collection, which is far off in a small program. That is
 * the link alone, once it has been cut.
 *
 * @template {object} T
 */
class WeakLink {
  /** @type {T | undefined} */
  #target;

  /** @type {WeakRef<WeakLink<T>>} */
  reference = new WeakRef(this);

  /** @param {T} target */
  constructor(target) {
    this.#target = target;
  }

  /**
   * The target, if it still lives and the link has not been cut.
   *
   * @template {object} T
   * @param {WeakRef<WeakLink<T>>} reference
   * @returns {T | undefined}
   */
  static follow(reference) {
    return reference.deref()?.#target;
  }

  cut() {
    this.#target = undefined;
  }
}

module.exports = { WeakLink };
