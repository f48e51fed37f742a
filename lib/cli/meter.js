'use strict';

/** How many samples are remembered: as many as the widest sparkline shows. */
const HISTORY = 240;

/** What passed a tunnel, as bytes a second between one sample and the next. */
class Meter {
  /** @type {number[]} the oldest first */
  sent = [];
  /** @type {number[]} */
  received = [];
  #last = null;

  /**
   * @param {{ bytesSent: number, bytesReceived: number }} statistics
   * @param {number} now in milliseconds, of a clock that never goes back
   */
  add({ bytesSent, bytesReceived }, now) {
    const last = this.#last;
    if (last && now <= last.now) return;
    this.#last = { bytesSent, bytesReceived, now };
    if (!last) return;
    const rate = (count, before) => (Math.max(0, count - before) * 1000) / (now - last.now);
    append(this.sent, rate(bytesSent, last.bytesSent));
    append(this.received, rate(bytesReceived, last.bytesReceived));
  }
}

function append(values, value) {
  values.push(value);
  if (values.length > HISTORY) values.shift();
}

module.exports = { HISTORY, Meter };
