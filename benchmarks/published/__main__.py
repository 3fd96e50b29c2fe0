from benchmarks.published.run import argument_parser, main

__all__ = ["argument_parser"]

if __name__ == "__main__":
    main()
