'use strict';

const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { test } = require('node:test');

const { ROOT } = require('./support/child.js');

const SECURITY = readFileSync(join(ROOT, 'SECURITY.md'), 'utf8');

/** The tests that stand in a cell: `file`: `name`, `name`; `file`: … */
function testsOf(cell) {
  return cell.split('; ').flatMap((part) => {
    const [file, ...names] = Array.from(part.matchAll(/`([^`]+)`/g), ([, quoted]) => quoted);
    return names.map((name) => ({ file, name }));
  });
}

test('each promise of SECURITY.md names tests, and all of them exist', () => {
  const [, table] = /^## Promises and their tests\n([^]*?)^`/m.exec(SECURITY);
  const rows = Array.from(table.matchAll(/^\| (.+) \| (.+) \|$/gm), ([, ...cells]) => cells).slice(1);
  assert.ok(rows.length > 20);
  for (const [promise, cell] of rows) {
    const tests = testsOf(cell);
    assert.notEqual(tests.length, 0, promise);
    for (const { file, name } of tests) {
      const source = readFileSync(join(ROOT, file), 'utf8');
      const call = file.endsWith('.rs') ? `fn ${name}(` : `('${name}'`;
      const declarations = source.replaceAll(/\b(?:it|test|describe)\(\s*/g, '(');
      assert.ok(declarations.includes(call), `${file} has no test «${name}»`);
    }
  }
});

test('no heading that SECURITY.md leads to is missing', () => {
  const headings = Array.from(SECURITY.matchAll(/^## (.+)$/gm), ([, heading]) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\w -]/g, '')
      .replaceAll(' ', '-'),
  );
  for (const [, anchor] of SECURITY.matchAll(/\]\(#([\w-]+)\)/g))
    assert.ok(headings.includes(anchor), anchor);
});
