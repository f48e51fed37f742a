'use strict';

const assert = require('node:assert/strict');
const { EventEmitter } = require('node:events');
const { stripVTControlCharacters } = require('node:util');
const { test } = require('node:test');

const { Meter } = require('../../lib/cli/meter.js');
const { Terminal, isLive } = require('../../lib/cli/terminal.js');
const { displayWidth } = require('../../lib/cli/text.js');
const { render } = require('../../lib/cli/view.js');

const NOW = Date.parse('2026-01-01T00:01:23Z');
const SINCE = '2026-01-01T00:00:00Z';
const QUALITY = { srttMs: 12.3, jitterMs: 1.2, minRttMs: 11, maxRttMs: 20.1, lossRatio: 0.016, linkHealth: 'degraded', currentKeepaliveIntervalSecs: 30 }; // prettier-ignore
const STATISTICS = { bytesSent: 3e6, bytesReceived: 5e3, packetsDropped: 2, drops: { normal: { spoofed: { packets: 2, bytes: 9 } } } }; // prettier-ignore

function shown() {
  const meter = new Meter();
  for (let second = 0; second < 300; second++) {
    meter.add({ bytesSent: second * second * 1000, bytesReceived: 0 }, second * 1000);
  }
  return { meter, target: 'wss://vpn.example.com/', messages: ['warning: \u001b[31mred'], now: NOW };
}

const CLIENT = {
  mode: 'client',
  status: { state: 'connected', assignedIp: '10.8.0.2', assignedIp6: 'fd08::2', connectedSince: SINCE },
  statistics: STATISTICS,
  quality: QUALITY,
};
const SERVER = {
  mode: 'server',
  status: { state: 'connected', assignedIp: '10.8.0.1', serverAddr: '0.0.0.0:443', connectedSince: SINCE },
  statistics: STATISTICS,
  clients: Array.from({ length: 50 }, (_, index) => ({
    clientId: `c${index}`, assignedIp: `10.8.0.${index + 2}`, name: index ? '漢字 😀'.repeat(9) : '\u001b[2Jevil\n',
    remoteAddr: '192.0.2.1:5', connectedSince: SINCE, bytesSent: 1e6, bytesReceived: 2, packetsDropped: 0,
  })), // prettier-ignore
};

test('a client shows state, address, throughput, round trip, loss and health', () => {
  const text = render(CLIENT, shown(), { columns: 100, rows: 30, colours: false }).join('\n');
  for (const words of [
    /^smartvpn client {2}connected {2}0:01:23$/m,
    /address +10\.8\.0\.2, fd08::2$/m,
    /sent +4\.8 Mbit\/s +3\.0 MB {2}[▁-█]+█$/m,
    /received +0 bit\/s +5\.0 kB {2}▁+$/m,
    /round trip +12\.3 ms, jitter 1\.20 ms, 11\.0 ms to 20\.1 ms/m,
    /loss +1\.6 %/,
    /health +degraded, checked every 30 s/,
    /dropped +2 packets \(spoofed 2\)/,
    /Ctrl-C ends it\.$/,
  ]) {
    assert.match(text, words);
  }
});

test('no line is wider, and no view higher, than the terminal', () => {
  for (const snapshot of [CLIENT, SERVER, { mode: 'client', status: { state: 'connecting' } }]) {
    for (const columns of [1, 5, 20, 40, 59, 60, 80, 200, 500]) {
      for (const rows of [1, 3, 8, 24, 100]) {
        for (const colours of [false, true]) {
          const lines = render(snapshot, shown(), { columns, rows, colours });
          assert.ok(lines.length <= rows, `${lines.length} of ${rows}`);
          for (const line of lines) {
            const plain = stripVTControlCharacters(line);
            assert.ok(displayWidth(plain) <= columns, `${columns}: ${plain}`);
            assert.doesNotMatch(plain, /\p{Cc}/u);
            if (!colours) assert.equal(line, plain, 'NO_COLOR');
          }
        }
      }
    }
  }
});

test('a server shows as many clients as there is room for', () => {
  const lines = render(SERVER, shown(), { columns: 120, rows: 24, colours: false });
  assert.match(lines.join('\n'), /ID +ADDRESS +FROM[^]*c0 [^]*and \d+ more/);
});

test('the meter forgets what is old, and takes no step back for a rate', () => {
  const { meter } = shown();
  assert.equal(meter.sent.length, 240);
  meter.add({ bytesSent: 0, bytesReceived: 0 }, 400_000);
  assert.equal(meter.sent.at(-1), 0);
  const { length } = meter.sent;
  meter.add({ bytesSent: 9, bytesReceived: 0 }, 400_000);
  assert.equal(meter.sent.length, length, 'no time has passed');
});

test('a terminal is given back once, also at the end of the process, and drawn anew when it changes', () => {
  const written = [];
  const stdout = Object.assign(new EventEmitter(), {
    columns: 0,
    rows: undefined,
    write: (text) => written.push(text),
  });
  const process = new EventEmitter();
  let redrawn = 0;
  const terminal = new Terminal({ stdout, process }, () => redrawn++);
  assert.deepEqual(terminal.size, { columns: 80, rows: 24 });
  terminal.draw(['too early']);
  assert.deepEqual(written, []);
  terminal.open();
  stdout.emit('resize');
  process.emit('SIGCONT');
  assert.equal(redrawn, 2);
  process.emit('exit');
  terminal.close();
  const text = written.join('');
  assert.equal(text.split('\u001b[?25h').length - 1, 1);
  assert.ok(text.endsWith('\u001b[?1049l'));
  assert.deepEqual([stdout.listenerCount('resize'), process.listenerCount('exit')], [0, 0]);
});

test('a view is drawn on terminals that can', () => {
  assert.equal(isLive({ isTTY: true }, { TERM: 'xterm' }), true);
  assert.equal(isLive({ isTTY: true }, { TERM: 'dumb' }), false);
  assert.equal(isLive({}, { TERM: 'xterm' }), false);
});
