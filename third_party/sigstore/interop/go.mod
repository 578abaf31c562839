module github.com/backstay/backstay/third_party/sigstore/interop

go 1.26.8

require (
	github.com/sigstore/sigstore v1.10.6
	standin.invalid/sigstore v0.0.0
)

require (
	github.com/google/go-containerregistry v0.20.7 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/secure-systems-lab/go-securesystemslib v0.9.1 // indirect
	github.com/sigstore/protobuf-specs v0.5.0 // indirect
	golang.org/x/crypto v0.48.0 // indirect
	golang.org/x/sys v0.41.0 // indirect
	golang.org/x/term v0.40.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20250825161204-c5933d9347a5 // indirect
	google.golang.org/protobuf v1.36.11 // indirect
)

// The stand-in under another name, so that both can be in one program.
replace standin.invalid/sigstore => ../
