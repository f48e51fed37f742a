'use strict';

const { main } = require('./main.js');

/**
 * What a command uses of its process.
 *
 * @typedef {object} Context
 * @property {import('node:tty').ReadStream} stdin
 * @property {import('node:tty').WriteStream} stdout
 * @property {NodeJS.WritableStream} stderr
 * @property {NodeJS.ProcessEnv} env
 * @property {() => number} now wall-clock time, in milliseconds
 * @property {import('node:events').EventEmitter} process for signals, and `exit`
 * @property {(code: number) => void} exit at once
 * @property {AbortSignal} unread aborted when nobody reads the output any more
 */

/** What the system says when the reader of a pipe, or a terminal, is gone. */
const GONE = new Set(['EPIPE', 'EIO', 'ERR_STREAM_DESTROYED']);

/** Runs the command line of this process. */
async function runProcess() {
  const unread = new AbortController();
  process.stdout.on('error', (error) => {
    if (!GONE.has(error.code)) throw error;
    unread.abort();
  });
  process.stderr.on('error', () => {
    // Nobody hears what would be said here.
  });
  const context = {
    get stdin() {
      return process.stdin;
    },
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    now: Date.now,
    process,
    exit: (code) => process.exit(code),
    unread: unread.signal,
  };
  // A VPN that is up ends in good order (see `up`); all else has nothing left to do.
  if (process.argv[2] !== 'up') unread.signal.addEventListener('abort', () => process.exit(0));
  process.exitCode = await main(process.argv.slice(2), context);
}

module.exports = { runProcess };
