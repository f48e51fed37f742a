'use strict';

const { loadNative } = require('../../native.js');
const { SERVER_SOCKET_OPTION, serverSocket, withDaemon } = require('../daemon.js');
const { UsageError } = require('../exit-codes.js');
const { commandLine } = require('../shell.js');
const { isLive } = require('../terminal.js');

const SECONDS = { '': 1, s: 1, m: 60, h: 3600, d: 86_400 };

/** Black on white, whatever the terminal's colours: a code in other colours is not one for every camera. */
const ON_PAPER = '\u001b[38;5;16;48;5;231m';
const OFF_PAPER = '\u001b[0m';

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'invite',
  summary: 'lets somebody join the running server',
  details: `
Prints a URL, and on a terminal its QR code. Whoever has the URL can join with
\`smartvpn join URL\`, as often as --uses says: send it where only the right person reads it.
`,
  positionals: [],
  options: {
    name: { value: 'LABEL', help: 'What to call a client that does not name itself' },
    expires: { value: 'TIME', help: 'How long it is good: seconds, or as 30m, 12h, 7d (default: 1d)' },
    uses: { value: 'N', help: 'How many clients may join with it (default: 1)' },
    url: { value: 'URL', help: "The server's, as wss://vpn.example.com/ (default: its publicUrl)" },
    qr: { help: 'Print the QR code also where there is no terminal' },
    socket: SERVER_SOCKET_OPTION,
  },

  async run({ stdout, stderr, env }, { values }) {
    const { json, qr, socket } = values;
    const options = {
      name: values.name,
      expiresInSecs: values.expires === undefined ? undefined : parseTime(values.expires),
      uses: values.uses === undefined ? undefined : parseUses(values.uses),
      serverUrl: values.url,
    };
    const invite = await withDaemon(serverSocket(socket), 'server', (vpn) => vpn.createInvite(options));
    if (json) {
      stdout.write(`${JSON.stringify(invite)}\n`);
      return;
    }
    const lines = [invite.url, ''];
    if (qr || stdout.isTTY) {
      const code = drawCode(invite.url, stdout, env, qr);
      if (typeof code === 'string') stderr.write(`${code}\n`);
      else lines.push(...code, '');
    }
    const times = options.uses > 1 ? `for ${options.uses} clients` : 'for one client';
    lines.push(
      `Good ${times}, until ${invite.expiresAt}. On the client:`,
      `  ${commandLine(['smartvpn', 'join', invite.url])}`,
    );
    stdout.write(`${lines.join('\n')}\n`);
  },
};

/** The lines of the code, or why there is none. */
function drawCode(url, stdout, env, asked) {
  const code = loadNative().qrCode(url);
  if (code === null) return 'There is no QR code: the URL is too long for one.';
  const lines = code.split('\n').filter((line) => line !== '');
  if (stdout.isTTY && !asked && stdout.columns < lines[0].length) {
    return `The terminal is too narrow for the QR code, which takes ${lines[0].length} columns.`;
  }
  return isLive(stdout, env) ? lines.map((line) => `${ON_PAPER}${line}${OFF_PAPER}`) : lines;
}

/** `90`, `30m`, `12h`, `7d`: in seconds. */
function parseTime(text) {
  const [, number, unit] = /^(\d{1,9})([smhd]?)$/.exec(text) ?? [];
  const seconds = Number(number) * SECONDS[unit];
  if (seconds > 0) return seconds;
  throw new UsageError(`--expires must be a time, as 3600, 30m, 12h or 7d, not "${text}".`);
}

function parseUses(text) {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new UsageError(`--uses must be a number of clients, not "${text}".`);
}
