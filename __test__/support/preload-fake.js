'use strict';

// For `node --require`: a program that imports the package gets a fake addon.
require('./fake-native.js').installFakeNative();
