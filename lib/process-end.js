'use strict';

const { readFileSync } = require('node:fs');

const POLL_INTERVAL_MS = 5;

/**
 * Waits, blocking this thread, until a child of this process has ended.
 *
 * A child that was not waited for keeps its id, so this is never about another process.
 *
 * @param {number} pid
 * @param {number} timeoutMs
 * @returns {boolean} whether it ended within that time
 */
function waitForEnd(pid, timeoutMs) {
  const deadline = performance.now() + timeoutMs;
  const never = new Int32Array(new SharedArrayBuffer(4));
  while (runs(pid)) {
    if (performance.now() >= deadline) return false;
    Atomics.wait(never, 0, 0, POLL_INTERVAL_MS);
  }
  return true;
}

/** Whether the process still does anything: a zombie whose threads are all gone does not. */
function runs(pid) {
  let stat;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return false;
  }
  // The name, in brackets, may hold anything; state and the number of threads are fields 3 and 20.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return !'ZX'.includes(fields[0]) || Number(fields[17]) > 1;
}

module.exports = { waitForEnd };
