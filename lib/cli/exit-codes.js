'use strict';

/** How a command ends. The help of every command tells. */
const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  unreachable: 3,
  refused: 4,
};

const EXIT_HELP = [
  ['0', 'done'],
  ['1', 'failed; doctor: something is missing'],
  ['2', 'the command line is wrong'],
  ['3', 'no daemon was reached'],
  ['4', 'the daemon refused the call'],
  ['128+n', 'ended at once by signal n'],
];

/** A command line that means nothing. The message is one sentence. */
class UsageError extends Error {
  name = 'UsageError';
}

/** A failure that ends with another code than 1; what failed is the `cause`. */
class Failure extends Error {
  name = 'Failure';

  /**
   * @param {number} exitCode
   * @param {import('../error.js').VpnError} cause
   */
  constructor(exitCode, cause) {
    super(cause.message, { cause });
    this.exitCode = exitCode;
  }
}

module.exports = { EXIT, EXIT_HELP, Failure, UsageError };
