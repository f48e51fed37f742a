'use strict';

const { getSystemErrorName } = require('node:util');

/** Shared by every copy of this package in a process, so that `instanceof` holds across them. */
const kVpnError = Symbol.for('smartvpn.VpnError');

/** Every rejection and every throw of this package: match on `code`, show `message`. */
class VpnError extends Error {
  static {
    Object.defineProperty(this.prototype, 'name', { value: 'VpnError', configurable: true, writable: true });
    Object.defineProperty(this.prototype, kVpnError, { value: true });
  }

  /**
   * @param {string} code
   * @param {string} message what happened and what to do
   * @param {{ path?: string, cause?: unknown }} [details]
   */
  constructor(code, message, { path, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    if (path !== undefined) this.path = path;
  }

  static [Symbol.hasInstance](value) {
    // A subclass of a user's own is not recognised by our mark.
    if (this !== VpnError) return Function.prototype[Symbol.hasInstance].call(this, value);
    return typeof value === 'object' && value !== null && value[kVpnError] === true;
  }
}

/**
 * The error for the body of a failed answer.
 *
 * @param {{ code: string, message: string, path?: string | null, cause?: string | null }} body
 * @returns {VpnError}
 */
function toVpnError({ code, message, path, cause }) {
  return new VpnError(code, message, {
    path: path ?? undefined,
    cause: cause ? toSystemError(cause) : undefined,
  });
}

/** Rust ends the text of a system error with its number; Node's own have `code` and `errno`. */
function toSystemError(text) {
  const error = new Error(text);
  const number = Number(/\(os error (\d+)\)$/.exec(text)?.[1]);
  if (number > 0) Object.assign(error, { errno: -number, code: getSystemErrorName(-number) });
  return error;
}

/**
 * The error for what the addon has thrown, or rejected a promise with. Its own exceptions have `code` and
 * `message`; a code of Node-API's is none of ours.
 *
 * @param {any} error
 * @param {string} what has not been done
 * @returns {VpnError}
 */
function fromException(error, what) {
  if (error instanceof VpnError) return error;
  const code = /^[a-z]+(-[a-z]+)*$/.test(error?.code) ? error.code : 'internal';
  const message = code === 'internal' ? `${what}. Please report this.` : error.message;
  return new VpnError(code, message, { path: error?.path, cause: error });
}

module.exports = { VpnError, fromException, toVpnError };
