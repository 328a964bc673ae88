package build

// GoTool and Flags build what is not a function in the same way.
var (
	GoTool     = goTool
	Flags      = flags
	KeptFolder = keptFolder
	LockOpened = lockOpened
)

const (
	TemporaryPrefix = temporaryPrefix
	KeptFolders     = keptFolders
)
