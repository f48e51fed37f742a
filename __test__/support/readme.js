'use strict';

const { readFileSync } = require('node:fs');
const { join } = require('node:path');

const { ROOT } = require('./child.js');

const README = readFileSync(join(ROOT, 'README.md'), 'utf8');

/** The programs of the README by name; those without a name get a number. */
const PROGRAMS = Object.fromEntries(
  Array.from(README.matchAll(/^```js\n([^]*?)^```$/gm), ([, text], index) => {
    const name = /^\/\/ (\S+\.mjs)\n/.exec(text)?.[1] ?? `${index}.mjs`;
    return [name, text];
  }).filter(([, text]) => text.includes('import ')),
);

/** What stands between the fences after a comment `<!-- snippet: NAME -->`, by that name. */
const SNIPPETS = Object.fromEntries(
  Array.from(README.matchAll(/^<!-- snippet: (\S+) -->\n```\w*\n([^]*?)^```$/gm), ([, name, text]) => [
    name,
    text,
  ]),
);

/** The same program as a CommonJS module. */
function toCommonJs(program) {
  const required = program.replace(/^import (\{[^}]*\}) from '([^']+)';$/gm, "const $1 = require('$2');");
  return `(async () => {\n${required}\n})();\n`;
}

module.exports = { PROGRAMS, README, SNIPPETS, toCommonJs };
