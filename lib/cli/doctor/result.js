'use strict';

/**
 * @typedef {object} Result
 * @property {string} name what was looked at
 * @property {'ok' | 'warn' | 'fail'} state `warn`: it works, or only part of it does not
 * @property {string} message what was found
 * @property {string} [fix] the command that mends it, or what to do
 */

/** Makes the results of one check. */
function check(name) {
  const make = (state) => (message, fix) => ({ name, state, message, ...(fix !== undefined && { fix }) });
  return { ok: make('ok'), warn: make('warn'), fail: make('fail') };
}

module.exports = { check };
