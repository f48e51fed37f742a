/** The command line of run.mjs. */
import { parseArgs } from 'node:util';

import { CASES } from './cases.mjs';
import { PEERS } from './peers.mjs';

export const USAGE = `npm run bench -- [--parts | --end-to-end] [--rounds N] [--seconds S] [--cases a,b] [--peers a,b]
                  [--out FILE] [--daemon PATH]`;

/**
 * @param {string[]} argv
 * @throws {Error} the message says what to write instead
 */
export function parseOptions(argv) {
  const values = parse(argv);
  const all = values.parts === values['end-to-end'];
  return {
    parts: all || values.parts === true,
    endToEnd: all || values['end-to-end'] === true,
    rounds: positive('rounds', values.rounds),
    seconds: positive('seconds', values.seconds),
    cases: chosen('cases', values.cases, Object.keys(CASES)),
    peers: chosen(
      'peers',
      values.peers,
      PEERS.map(({ name }) => name),
    ),
    out: values.out ?? null,
    daemon: values.daemon ?? null,
  };
}

function parse(argv) {
  try {
    const { values } = parseArgs({
      args: argv,
      options: {
        parts: { type: 'boolean' },
        'end-to-end': { type: 'boolean' },
        rounds: { type: 'string', default: '3' },
        seconds: { type: 'string', default: '5' },
        cases: { type: 'string' },
        peers: { type: 'string' },
        out: { type: 'string' },
        daemon: { type: 'string' },
      },
    });
    return values;
  } catch (error) {
    throw new Error(`${error.message}\n${USAGE}`);
  }
}

function positive(name, text) {
  const number = Number(text);
  if (Number.isInteger(number) && number > 0) return number;
  throw new Error(`--${name} must be a whole number above 0, not "${text}".`);
}

/** The ones asked for, in the order in which they are known. */
function chosen(name, text, known) {
  if (text === undefined) return known;
  const asked = text.split(',').map((word) => word.trim());
  const strange = asked.find((word) => !known.includes(word));
  if (strange !== undefined)
    throw new Error(`--${name} takes ${known.join(', ')}; there is no "${strange}".`);
  return known.filter((word) => asked.includes(word));
}
