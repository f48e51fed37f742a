'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');

const { reconnectDelay } = require('../lib/connection/backoff.js');
const {
  LineReader,
  MAX_REQUEST_BYTES,
  MAX_WAITING_BYTES,
  toRequestLine,
} = require('../lib/connection/lines.js');
const { parseLogLine } = require('../lib/connection/log-line.js');

const NOW = new Date('2026-01-02T03:04:05.678Z');

test('lines come whole, however the stream cuts them', () => {
  const text = '{"grüße":"🚇"}\n\nzweite Zeile\n';
  const bytes = Buffer.from(text);
  for (let size = 1; size <= bytes.length; size++) {
    const reader = new LineReader(100);
    const lines = [];
    for (let start = 0; start < bytes.length; start += size) {
      lines.push(...reader.push(bytes.subarray(start, start + size)));
    }
    assert.deepEqual(
      lines.map((line) => line.bytes.toString()),
      text.split('\n').slice(0, -1),
      `in pieces of ${size}`,
    );
    assert.deepEqual(reader.end(), []);
  }
});

test('what comes after the last line is told at the end', () => {
  const reader = new LineReader(100);
  assert.equal(reader.push(Buffer.from('one\ntw')).length, 1);
  assert.equal(reader.push(Buffer.from('o')).length, 0);
  assert.equal(reader.end()[0].bytes.toString(), 'two');
  assert.deepEqual(reader.end(), []);
});

test('of a line that is too long, the beginning is kept and the rest counted', () => {
  const reader = new LineReader(4);
  assert.deepEqual(reader.push(Buffer.from('abc')), []);
  assert.equal(reader.excess, 0);
  assert.deepEqual(reader.push(Buffer.from('defg')), []);
  assert.equal(reader.excess, 3);
  const [first, second] = reader.push(Buffer.from('h\nijkl\n'));
  assert.deepEqual([first.bytes.toString(), first.excess], ['abcd', 4]);
  assert.deepEqual([second.bytes.toString(), second.excess], ['ijkl', 0]);
});

test('a request is one line; what a daemon would not take is refused', () => {
  assert.equal(toRequestLine(1, 'getStatus', undefined, 0), '{"id":1,"method":"getStatus"}\n');
  assert.equal(
    toRequestLine(2, 'connect', { name: 'a\nb' }, 0),
    '{"id":2,"method":"connect","params":{"name":"a\\nb"}}\n',
  );
  const around = Buffer.byteLength(toRequestLine(3, 'connect', { tlsCa: '' }, 0)) - 1;
  const fits = 'é'.repeat((MAX_REQUEST_BYTES - around) / 2);
  const odd = (MAX_REQUEST_BYTES - around) % 2 === 1 ? 'x' : '';
  const line = toRequestLine(3, 'connect', { tlsCa: fits.slice(0, Math.floor(fits.length)) + odd }, 0);
  assert.equal(Buffer.byteLength(line), MAX_REQUEST_BYTES + 1);
  assert.throws(() => toRequestLine(3, 'connect', { tlsCa: `${fits}${odd}x` }, 0), {
    code: 'invalid-argument',
    message: /connect takes 65537 bytes, but a daemon takes 65536 at once.*path/,
  });
  assert.throws(() => toRequestLine(4, 'getStatus', undefined, MAX_WAITING_BYTES), {
    code: 'invalid-argument',
    message: /wait for the daemon/,
  });
});

test('a line of the log is taken apart', () => {
  for (const [text, expected] of [
    [
      '2026-08-22T10:11:12.123456Z  INFO smartvpn::client: connected part="client" ip=10.8.0.2',
      ['info', 'smartvpn::client', 'connected part="client" ip=10.8.0.2', '2026-08-22T10:11:12.123456Z'],
    ],
    [
      '\x1b[2m2026-08-22T10:11:12Z\x1b[0m \x1b[31mERROR\x1b[0m session{id=7 ip=10.8.0.2}:link{}: \x1b[2msmartvpn\x1b[0m\x1b[2m:\x1b[0m gone: why',
      ['error', 'smartvpn', 'gone: why', '2026-08-22T10:11:12Z'],
    ],
    ['2026-08-22T10:11:12Z TRACE no target', ['trace', 'daemon', 'no target', '2026-08-22T10:11:12Z']],
    [
      "thread 'main' panicked at src/x.rs:1:2:",
      ['warn', 'daemon', "thread 'main' panicked at src/x.rs:1:2:", NOW.toISOString()],
    ],
    ['INFO: not ours', ['warn', 'daemon', 'INFO: not ours', NOW.toISOString()]],
  ]) {
    const { level, target, message, time } = parseLogLine({ bytes: Buffer.from(text), excess: 0 }, () => NOW);
    assert.deepEqual([level, target, message, time], expected);
  }
});

test('an empty line of the log is none, a cut one says so, and a hostile one takes no time', () => {
  const parse = (text, excess = 0) => parseLogLine({ bytes: Buffer.from(text), excess }, () => NOW);
  assert.equal(parse(' \x1b[0m\r'), null);
  assert.equal(parse('abc', 7).message, 'abc … (7 more bytes)');
  const before = performance.now();
  parse(`2026-08-22T10:11:12Z INFO ${'a{}:'.repeat(2000)}`);
  assert.ok(performance.now() - before < 1000);
  assert.equal(parse(Buffer.from([0xff, 0xfe])).message, '\ufffd\ufffd');
});

test('the waits between attempts double up to their limit, a fifth more or less', () => {
  const limits = { reconnectBaseDelayMs: 100, reconnectMaxDelayMs: 3000 };
  const delays = (random) =>
    [0, 1, 2, 3, 4, 5, 6, 60].map((attempt) => reconnectDelay(attempt, limits, random));
  assert.deepEqual(delays(0.5), [100, 200, 400, 800, 1600, 3000, 3000, 3000]);
  assert.deepEqual(delays(0).map(Math.round), [80, 160, 320, 640, 1280, 2400, 2400, 2400]);
  assert.deepEqual(delays(1).map(Math.round), [120, 240, 480, 960, 1920, 3600, 3600, 3600]);
  assert.equal(reconnectDelay(5000, limits, 0.5), 3000);
});
