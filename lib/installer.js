'use strict';

const { VpnError } = require('./error.js');
const { generateLaunchdPlist } = require('./service/launchd.js');
const { parseServiceOptions } = require('./service/options.js');
const { generateSystemdUnit } = require('./service/systemd.js');

/** What Node calls the platforms, and what we do. */
const PLATFORMS = new Map([
  ['linux', 'linux'],
  ['darwin', 'macos'],
  ['win32', 'windows'],
]);

const GENERATORS = new Map([
  ['linux', generateSystemdUnit],
  ['macos', generateLaunchdPlist],
]);

/** Writes what a system's service manager wants to know about the daemon. Only text: nothing is installed. */
class VpnInstaller {
  static detectPlatform() {
    return PLATFORMS.get(process.platform) ?? 'unknown';
  }

  static generateSystemdUnit(options) {
    return generateSystemdUnit(parseServiceOptions(options));
  }

  static generateLaunchdPlist(options) {
    return generateLaunchdPlist(parseServiceOptions(options));
  }

  static generateServiceUnit(options) {
    const parsed = parseServiceOptions(options);
    const platform = VpnInstaller.detectPlatform();
    const generate = GENERATORS.get(platform);
    if (!generate) {
      throw new VpnError(
        'unsupported-platform',
        `There is no service unit for ${process.platform}: Linux has systemd's, macOS launchd's.`,
      );
    }
    return generate(parsed);
  }
}

module.exports = { VpnInstaller };
