'use strict';

/** The longest a timer goes; it only has to exist. */
const FAR_OFF_MS = 2 ** 31 - 1;

/**
 * Holds the event loop while it is set. Nothing else of this package does: the callbacks of the
 * addon are weak, as the sockets and children of the other transports are.
 */
class KeepAlive {
  #timer = null;

  /** @param {boolean} held */
  set(held) {
    if (held) {
      this.#timer ??= setInterval(() => {}, FAR_OFF_MS);
    } else if (this.#timer) {
      clearInterval(this.#timer);
      this.#timer = null;
    }
  }
}

module.exports = { KeepAlive };
