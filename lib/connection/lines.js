'use strict';

const { VpnError } = require('../error.js');

/** What a daemon takes in one line, the line's end apart. */
const MAX_REQUEST_BYTES = 64 * 1024;

/** Requests that may wait to be read: room for some dozens of the longest, and for all calls of the others. */
const MAX_WAITING_BYTES = 4 * 1024 * 1024;

const NEWLINE = 0x0a;

/** Puts lines together from the pieces in which a stream delivers them. */
class LineReader {
  #maxBytes;
  /** The pieces of the line that is not complete yet. */
  #pieces = [];
  #size = 0;
  #excess = 0;

  /** @param {number} maxBytes what is kept of one line; the rest is counted */
  constructor(maxBytes) {
    this.#maxBytes = maxBytes;
  }

  /** How many bytes of the unfinished line are lost already. */
  get excess() {
    return this.#excess;
  }

  /**
   * The lines that `chunk` completes. They are bytes: a character may be split over chunks.
   *
   * @param {Buffer} chunk
   * @returns {{ bytes: Buffer, excess: number }[]}
   */
  push(chunk) {
    const lines = [];
    let start = 0;
    for (let end; (end = chunk.indexOf(NEWLINE, start)) >= 0; start = end + 1) {
      this.#keep(chunk.subarray(start, end));
      lines.push(this.#take());
    }
    this.#keep(chunk.subarray(start));
    return lines;
  }

  /** What came after the last line's end, if anything. */
  end() {
    return this.#size > 0 ? [this.#take()] : [];
  }

  #keep(piece) {
    const kept = piece.subarray(0, this.#maxBytes - this.#size);
    this.#excess += piece.length - kept.length;
    this.#size += kept.length;
    if (kept.length > 0) this.#pieces.push(kept);
  }

  #take() {
    const [only] = this.#pieces;
    const bytes = this.#pieces.length === 1 ? only : Buffer.concat(this.#pieces);
    const line = { bytes, excess: this.#excess };
    this.#pieces = [];
    this.#size = 0;
    this.#excess = 0;
    return line;
  }
}

/**
 * A request as a line of its own.
 *
 * @param {number} waitingBytes how much waits already for the daemon to read it
 * @throws {VpnError} `invalid-argument` if it is longer than a daemon takes, or too much waits
 */
function toRequestLine(id, method, params, waitingBytes) {
  const text = JSON.stringify({ id, method, params });
  const bytes = Buffer.byteLength(text);
  if (bytes > MAX_REQUEST_BYTES) {
    throw new VpnError(
      'invalid-argument',
      `A call of ${method} takes ${bytes} bytes, but a daemon takes ${MAX_REQUEST_BYTES} at once. ` +
        'A certificate can be given as the path of a file.',
    );
  }
  if (waitingBytes + bytes > MAX_WAITING_BYTES) {
    throw new VpnError(
      'invalid-argument',
      `${waitingBytes} bytes of calls wait for the daemon to read them; await some of them before the next.`,
    );
  }
  return `${text}\n`;
}

module.exports = { LineReader, MAX_REQUEST_BYTES, MAX_WAITING_BYTES, toRequestLine };
