'use strict';

const { existsSync, readFileSync } = require('node:fs');
const { open, rename, rm } = require('node:fs/promises');
const { tmpdir } = require('node:os');
const { resolve } = require('node:path');

const { VpnError } = require('../../error.js');
const { VpnInstaller } = require('../../installer.js');
const { findDaemon } = require('../../platform.js');
const { MARK } = require('../../service/systemd.js');
const { loadConfig, validateConfig } = require('../config-file.js');
const { DEFAULT_SOCKETS } = require('../daemon.js');
const { UsageError } = require('../exit-codes.js');
const { readingObstacle, resolveUser } = require('../readable.js');
const { commandLine } = require('../shell.js');

const UNITS = '/etc/systemd/system';

/** Folders whose files are gone one day, without anybody having asked. */
const PASSING = [/\/_npx\//, /^\/(var\/)?tmp\//];

/** Written to files that the configuration names. */
const FILE_FIELDS = ['tlsCert', 'tlsKey', 'tlsCa'];
const PEM_START = '-----BEGIN';

/** @type {import('../arguments.js').Command} */
module.exports = {
  name: 'install',
  summary: 'writes the service unit by which systemd runs the daemon',
  details: `
Writes ${UNITS}/smartvpn-server.service, or …-client.service, and shows
the commands that start it. The service runs the daemon itself, without Node.
`,
  positionals: [{ name: 'MODE', help: 'server or client', choices: ['server', 'client'] }],
  options: {
    config: { value: 'FILE', help: 'The configuration to run' },
    socket: {
      value: 'PATH',
      help: 'Where the daemon listens for commands (default: /run/smartvpn/MODE.sock)',
    },
    user: { value: 'USER', help: 'Whose process it is (default: root, confined)' },
    print: { help: 'Only show the unit' },
    force: { help: 'Replace a unit that smartvpn has not written' },
  },

  async run({ stdout, stderr }, { values, positionals: [mode] }) {
    if (values.config === undefined)
      throw new UsageError('--config is missing: which configuration is to run?');
    const configPath = resolve(values.config);
    const { mode: configured, config } = await loadConfig(configPath);
    if (configured !== mode) {
      throw new VpnError('invalid-config', `${configPath} configures a ${configured}, not a ${mode}.`, {
        path: '',
      });
    }
    validateConfig(mode, config);
    const user = values.user === undefined ? undefined : resolveUser(values.user);
    const binaryPath = findDaemon();
    const socketPath = values.socket === undefined ? DEFAULT_SOCKETS[mode] : resolve(values.socket);
    const unit = VpnInstaller.generateSystemdUnit({
      binaryPath,
      socketPath,
      mode,
      configPath,
      user: values.user,
    });
    const warnings = findFaults({ binaryPath, configPath, config, user, unit, mode });

    for (const warning of warnings) stderr.write(`Warning: ${warning}\n`);
    if (values.print) {
      stdout.write(values.json ? `${JSON.stringify({ unit, warnings })}\n` : unit);
      return;
    }
    const service = `smartvpn-${mode}`;
    const path = `${UNITS}/${service}.service`;
    await writeUnit(path, unit, values.force);
    const commands = [
      commandLine(['systemctl', 'daemon-reload'], { root: true }),
      commandLine(['systemctl', 'enable', '--now', service], { root: true }),
      commandLine(['systemctl', 'status', service]),
    ];
    if (values.json) stdout.write(`${JSON.stringify({ path, socket: socketPath, commands, warnings })}\n`);
    else
      stdout.write(
        `${path} is written. Start the service:\n${commands.map((line) => `  ${line}\n`).join('')}`,
      );
  },
};

async function writeUnit(path, unit, force) {
  if (!existsSync(UNITS)) {
    throw new VpnError(
      'unsupported-platform',
      `There is no ${UNITS}: this system is not run by systemd. --print shows the unit.`,
    );
  }
  if (!force && existsSync(path) && !readFileSync(path, 'utf8').startsWith(MARK)) {
    throw new VpnError('file-error', `${path} is not of smartvpn's making. Replace it with --force.`);
  }
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const handle = await open(temporary, 'wx', 0o644);
    try {
      await handle.chmod(0o644);
      await handle.writeFile(unit);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => {});
    const hint = ['EACCES', 'EPERM'].includes(cause.code) ? ' Run it as root.' : '';
    throw new VpnError('file-error', `${path} could not be written: ${cause.message}.${hint}`, { cause });
  }
}

/** What will keep the service from running, now or one day. */
function findFaults({ binaryPath, configPath, config, user, unit, mode }) {
  const faults = [];
  const passing = [...PASSING, { test: (path) => path.startsWith(`${tmpdir()}/`) }];
  if (passing.some((folder) => folder.test(binaryPath))) {
    faults.push(
      `${binaryPath} lies in a folder that is emptied now and then. Install the package for good, as with ` +
        '`npm install --prefix /opt/smartvpn smartvpn`, and run this command from there.',
    );
  }
  const pems = FILE_FIELDS.map((name) => config[name]).filter((text) => text && !text.startsWith(PEM_START));
  for (const file of [binaryPath, configPath, ...pems]) {
    const obstacle = readingObstacle(resolve(file), user);
    if (obstacle) faults.push(obstacle);
  }
  const hidden = unit.includes('ProtectHome=yes') ? pems.filter((file) => /^\/(home|root)\//.test(file)) : [];
  for (const file of hidden) {
    faults.push(
      `${file} lies in a home, which the service does not see. Move it, for example to /etc/smartvpn.`,
    );
  }
  if (user && user.uid !== 0 && config.stateDir === undefined) {
    faults.push(
      `Only root keeps a journal by default. Write "stateDir": "/var/lib/smartvpn" into ${configPath}, so that ` +
        'the next start can undo what a killed daemon left.',
    );
  }
  if (user && user.uid !== 0 && mode === 'client') {
    faults.push(
      'Only root may change /etc/resolv.conf. Where systemd-resolved is not used, write "dns": [] into it.',
    );
  }
  return faults;
}
