'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');

const {
  bitRate, bytes, cut, displayWidth, duration, milliseconds, nearest, percent, printable, sparkline, table,
} = require('../../lib/cli/text.js'); // prettier-ignore

test('quantities are rounded into the unit that suits them', () => {
  assert.deepEqual([0, 999, 1000, 999_949, 999_950, 1.5e12].map(bytes), [
    '0 B', '999 B', '1.0 kB', '999.9 kB', '1.0 MB', '1.5 TB',
  ]); // prettier-ignore
  assert.deepEqual([0, 125, 1.25e6].map(bitRate), ['0 bit/s', '1.0 kbit/s', '10.0 Mbit/s']);
  assert.deepEqual([0.384, 12.34, 230.4].map(milliseconds), ['0.38 ms', '12.3 ms', '230 ms']);
  assert.deepEqual([0, 0.016, 0.5].map(percent), ['0 %', '1.6 %', '50 %']);
  assert.deepEqual([-5, 83_000, 273_906_000].map(duration), ['0:00:00', '0:01:23', '3 d 04:05:06']);
});

test('a sparkline shows the last values, the highest as high as it goes', () => {
  assert.equal(sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8), '▁▂▃▄▅▆▇█');
  assert.equal(sparkline([100, 0, 7], 2), '▁█');
  assert.equal(sparkline([0, 0], 5), '▁▁');
  assert.equal(sparkline([1e-9, 1], 5), '▂█', 'little is not nothing');
  assert.equal(sparkline([], 5) + sparkline([1], 0) + sparkline([1], -3), '');
});

test('text is measured and cut in columns', () => {
  assert.deepEqual(['abc', 'ü', 'e\u0301', '漢字', '😀'].map(displayWidth), [3, 1, 1, 4, 2]);
  assert.equal(cut('abcdef', 6), 'abcdef');
  assert.equal(cut('abcdef', 5), 'abcd…');
  assert.equal(cut('漢字漢字', 6), '漢字…');
  assert.equal(cut('abc', 0), '');
  assert.deepEqual(table(['A', 'B'], [['漢', 'x'], ['abc', 'y']]), ['A    B', '漢   x', 'abc  y']); // prettier-ignore
});

test('text of others steers no terminal', () => {
  for (const hostile of ['\u001b[2J', '\u009b2J', 'a\r\nb', '\u202eabc', '\u2028', '\ud800', '\u0007']) {
    assert.doesNotMatch(printable(hostile), /[\p{C}\u2028]/u, JSON.stringify(hostile));
  }
  assert.equal(printable('laptop ü 漢 😀'), 'laptop ü 漢 😀');
});

test('the nearest name is what was probably meant, if it is near', () => {
  const names = ['status', 'clients', 'kick', 'limit', 'up'];
  assert.deepEqual(['statsu', 'stat', 'client', 'kcik', 'lmit', 'xyzzy', 'u'].map((word) => nearest(word, names)), [
    'status', 'status', 'clients', 'kick', 'limit', undefined, 'up',
  ]); // prettier-ignore
});
