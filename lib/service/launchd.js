'use strict';

/**
 * A property list for launchd that runs the daemon.
 *
 * @param {import('./options.js').ServiceOptions} options
 * @returns {string}
 */
function generateLaunchdPlist({ binaryPath, socketPath, mode, configPath, user }) {
  const command = [binaryPath, '--management-socket', socketPath, '--mode', mode];
  if (configPath !== undefined) command.push('--config', configPath);
  const lines = [
    '<?xml version="1.0" encoding="UTF-8"?>',
    '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">',
    '<plist version="1.0">',
    '<dict>',
    ...entry('Label', string(`smartvpn.${mode}`)),
    ...entry('ProgramArguments', '<array>', ...command.map((word) => `  ${string(word)}`), '</array>'),
    ...entry('RunAtLoad', '<true/>'),
    // Only a failure is taken up again: an end that was asked for stands.
    ...entry('KeepAlive', '<dict>', '  <key>SuccessfulExit</key>', '  <false/>', '</dict>'),
    // Peers are told and the host is put back, which takes at most 5 s.
    ...entry('ExitTimeOut', '<integer>15</integer>'),
    ...entry('Umask', '<integer>63</integer>'),
    ...entry('StandardErrorPath', string(`/var/log/smartvpn-${mode}.log`)),
    ...(user === undefined ? [] : entry('UserName', string(user))),
    '</dict>',
    '</plist>',
  ];
  return `${lines.join('\n')}\n`;
}

function entry(key, ...value) {
  return [`<key>${key}</key>`, ...value].map((line) => `  ${line}`);
}

function string(text) {
  const escaped = text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
  return `<string>${escaped}</string>`;
}

module.exports = { generateLaunchdPlist };
