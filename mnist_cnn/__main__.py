try:
    from mnist_cnn.cli import main
except KeyboardInterrupt:  # before there is anybody to word it
    raise SystemExit(130) from None

raise SystemExit(main())
