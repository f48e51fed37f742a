/** Programs on hosts of a lab, which end with the test that started them. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';

/** What the current test has started. */
const running = new Set();

/** A test that failed half-way leaves nothing to the next one. */
export async function endAll(signal = 'SIGTERM') {
  await Promise.all([...running].map(({ end }) => end(signal)));
}

/**
 * Starts a program.
 *
 * @param {import('../../../scripts/lab.mjs').Host} host
 * @param {string[]} argv
 * @param {object} [options] of `spawn`
 */
export function start(host, argv, options = {}) {
  const child = host.spawn(argv, { stdio: ['pipe', 'pipe', 'pipe'], ...options });
  let text = '';
  let lines = '';
  child.stdout.setEncoding('utf8').on('data', (more) => {
    text += more;
    lines += more;
  });
  child.stderr.setEncoding('utf8').on('data', (more) => (text += more));
  const ended = once(child, 'close');
  const started = {
    child,
    ended,
    /** All that it has printed. */
    output: () => text,
    /** What is whole of the JSON lines on its standard output. */
    json: () =>
      lines
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line)),
    end: (signal) => {
      child.kill(signal);
      return ended;
    },
  };
  running.add(started);
  child.once('close', () => running.delete(started));
  return started;
}

/** The process id of the daemon that an agent has started over stdio. */
export function daemonOf({ pid }) {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim());
}
