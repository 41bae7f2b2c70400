// swift-tools-version: 6.2
import PackageDescription

/// What every target of ours is compiled with: Swift 6 mode, each unsafe construct marked, no warning left.
let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
]

/// Tests may look at bytes without ceremony.
let test: [SwiftSetting] = [.swiftLanguageMode(.v6), .treatAllWarnings(as: .error)]

let system: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")

let package = Package(
    name: "workspacekit",
    products: [.executable(name: "workspacekit", targets: ["workspacekit"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
    ],
    targets: [
        .target(name: "CKernel", cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-Werror"])]),
        .systemLibrary(name: "CYAML", pkgConfig: "yaml-0.1", providers: [.apt(["libyaml-dev"])]),
        .systemLibrary(name: "CCap", pkgConfig: "libcap", providers: [.apt(["libcap-dev"])]),
        .target(
            name: "Kernel",
            dependencies: ["CKernel", "CCap", system],
            swiftSettings: strict),
        .target(name: "TerminalText", swiftSettings: strict),
        .target(name: "Config", dependencies: ["CYAML", "TerminalText"], swiftSettings: strict),
        .target(name: "Control", dependencies: ["Kernel", "TerminalText", system], swiftSettings: strict),
        .target(name: "Ring", dependencies: ["Kernel", system], swiftSettings: strict),
        .target(
            name: "Supervisor", dependencies: ["Kernel", "Config", "Control", "TerminalText", system],
            swiftSettings: strict),
        .target(name: "Slirp", dependencies: ["Kernel", system], swiftSettings: strict),
        .executableTarget(
            name: "workspacekit",
            dependencies: [
                "Config", "Control", "Ring", "Supervisor", "Slirp", "Kernel", "TerminalText", system,
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "configuration-docs", dependencies: ["Config"], path: "Tools/configuration-docs",
            swiftSettings: strict),
        .target(name: "TestSupport", path: "Tests/TestSupport", swiftSettings: test),
        .testTarget(name: "TerminalTextTests", dependencies: ["TerminalText"], swiftSettings: test),
        .testTarget(name: "KernelTests", dependencies: ["Kernel"], swiftSettings: test),
        .testTarget(
            name: "ConfigTests", dependencies: ["Config", "TestSupport"], exclude: ["Golden", "Imports"],
            swiftSettings: test),
        .testTarget(name: "SlirpTests", dependencies: ["Slirp", "Kernel", "TestSupport"], swiftSettings: test),
        .testTarget(
            name: "SupervisorTests", dependencies: ["Supervisor", "Kernel", "Config", "TestSupport"],
            swiftSettings: test),
        .testTarget(name: "RingTests", dependencies: ["Ring", "Kernel"], swiftSettings: test),
    ]
)

// `make fuzz`: libFuzzer brings the main function, so this target exists only where it is asked for.
if Context.environment["FUZZ"] != nil {
    package.targets.append(
        .executableTarget(
            name: "fuzz", dependencies: ["Config", "Kernel", "Slirp"], path: "Tests/Fuzz", exclude: ["Corpus"],
            swiftSettings: test + [.unsafeFlags(["-parse-as-library", "-enable-testing"])]))
}
