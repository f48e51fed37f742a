'use strict';

const { posix } = require('node:path');

const { VpnError } = require('../error.js');

/** What each mode needs, which is what its daemon keeps. */
const CAPABILITIES = { client: 'CAP_NET_ADMIN', server: 'CAP_NET_ADMIN CAP_NET_BIND_SERVICE' };

/** Where root and users live; out of a service's sight unless one of its files lies there. */
const HOMES = /^\/(home|root|run\/user)\//;

/** Folders that each service has to itself with `PrivateTmp`, so that nobody would find the socket. */
const PRIVATE_FOLDERS = /^\/(var\/)?tmp\//;

/** Written into every unit, by which ours are told from others'. */
const MARK = '# Written by smartvpn.';

/**
 * A unit of systemd that runs the daemon with what it needs and nothing else.
 *
 * @param {import('./options.js').ServiceOptions} options
 * @returns {string}
 * @throws {VpnError} `invalid-argument` where the socket cannot lie
 */
function generateSystemdUnit({ binaryPath, socketPath, mode, configPath, user }) {
  const socketFolder = posix.dirname(socketPath).replace(/^\/var\/run\//, '/run/');
  const paths = [binaryPath, configPath, socketPath].filter((path) => path !== undefined);
  const seesHomes = paths.some((path) => HOMES.test(path));
  const lines = [
    MARK,
    '[Unit]',
    `Description=smartvpn ${mode}`,
    'Wants=network-online.target',
    'After=network-online.target nss-lookup.target',
    '',
    '[Service]',
    '# Ready when the control socket listens and the VPN serves, or the client has begun to connect.',
    'Type=notify',
    'NotifyAccess=main',
    'WatchdogSec=30',
    `ExecStart=${commandLine({ binaryPath, socketPath, mode, configPath })}`,
    'Restart=on-failure',
    'RestartSec=5',
    '# Peers are told and the host is put back, which takes at most 5 s.',
    'KillMode=mixed',
    'TimeoutStopSec=15',
    ...(user === undefined ? [] : [`User=${user}`]),
    'UMask=0077',
    '',
    '# The journal by which the next start undoes what a killed daemon left; the control socket.',
    'StateDirectory=smartvpn',
    'StateDirectoryMode=0700',
    ...socketLines(socketFolder),
    '',
    ...capabilityLines(mode),
    'NoNewPrivileges=yes',
    'DevicePolicy=closed',
    'DeviceAllow=/dev/net/tun rw',
    'RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX',
    '',
    '# A system that is only read, but for the switches of forwarding.',
    'ProtectSystem=strict',
    'ProtectKernelTunables=yes',
    'ReadWritePaths=/proc/sys/net',
    ...(mode === 'client' ? resolverLines() : []),
    `ProtectHome=${seesHomes ? 'read-only' : 'yes'}`,
    'PrivateTmp=yes',
    'PrivateMounts=yes',
    'ProtectProc=invisible',
    'ProtectClock=yes',
    'ProtectControlGroups=yes',
    'ProtectHostname=yes',
    'ProtectKernelLogs=yes',
    'ProtectKernelModules=yes',
    'LockPersonality=yes',
    'MemoryDenyWriteExecute=yes',
    'RemoveIPC=yes',
    'RestrictNamespaces=yes',
    'RestrictRealtime=yes',
    'RestrictSUIDSGID=yes',
    'SystemCallArchitectures=native',
    'SystemCallFilter=@system-service',
    'SystemCallFilter=~@privileged',
    'SystemCallErrorNumber=EPERM',
    '',
    '[Install]',
    'WantedBy=multi-user.target',
  ];
  return `${lines.join('\n')}\n`;
}

function capabilityLines(mode) {
  const what =
    mode === 'server' ? 'Interfaces, routes, masquerading; ports below 1024.' : 'Interfaces, routes.';
  return [
    `# ${what} Nothing else of root's powers.`,
    `CapabilityBoundingSet=${CAPABILITIES[mode]}`,
    `AmbientCapabilities=${CAPABILITIES[mode]}`,
  ];
}

function commandLine({ binaryPath, socketPath, mode, configPath }) {
  const words = [
    quote(binaryPath),
    '--management-socket',
    quote(socketPath),
    '--mode',
    mode,
    ...(configPath === undefined ? [] : ['--config', quote(configPath).replaceAll('$', '$$$$')]),
  ];
  return words.join(' ');
}

/** One word as it is: `"` and `\` escaped (systemd.syntax), and `%` (systemd.unit, "Specifiers"). */
function quote(text) {
  const escaped = text.replace(/["\\]/g, String.raw`\$&`).replaceAll('%', '%%');
  return /^[\w/.%@+=,~-]+$/.test(escaped) ? escaped : `"${escaped}"`;
}

/** How the daemon may make its socket: in a folder that systemd makes under /run, or in one that is there. */
function socketLines(folder) {
  const [, name] = /^\/run\/(.+)$/.exec(folder) ?? [];
  if (name !== undefined && !folder.startsWith('/run/user/')) {
    return [
      `RuntimeDirectory=${quote(name)}`,
      'RuntimeDirectoryMode=0755',
      "# The other mode's daemon may have its socket there, too.",
      'RuntimeDirectoryPreserve=yes',
    ];
  }
  const shared = ['/', '/run', '/var/run', '/tmp', '/var/tmp'];
  if (shared.includes(folder) || PRIVATE_FOLDERS.test(folder)) {
    throw new VpnError(
      'invalid-argument',
      `options.socketPath cannot lie in ${folder}: take a folder of its own, as /run/smartvpn.`,
    );
  }
  return [`ReadWritePaths=${quote(folder)}`];
}

/** Where the host's resolvers are set, if it is not by D-Bus: the file itself, or resolvconf's folders. */
function resolverLines() {
  return ['ReadWritePaths=-/etc/resolv.conf -/run/resolvconf'];
}

module.exports = { MARK, generateSystemdUnit };
