package gateway

// Version is the version of the service. Every HTTP answer carries it in the
// header Promises-Version. A test compares it with the newest entry of
// .github/CHANGELOG.md.
const Version = "0.1.0"
